#!/usr/bin/env bash
# Make this checkout ready to train and to test: system packages, .venv, PyTorch, Horovod, alq_hvd. `make setup` calls it.
# Every step is skipped when its inputs have not changed, and is done again when it was interrupted.
#
#   PYTHON=python3.12       the interpreter to build .venv from
#   TORCH_VERSION=2.13.0    the PyTorch to install; which build of it, with CUDA or without, is up to pip's configuration
#   PIP_EXTRA_INDEX_URL=... pip's own variables work: an index of CPU builds saves gigabytes where there is no GPU
#   ALQ_HVD_CACHE=DIR       where the Horovod wheel is kept (default ~/.cache/alq-hvd)
#   ALQ_HVD_JOBS=N          how many compilers run at once (default: all processors)
#   HOROVOD_GPU_OPERATIONS=NCCL and its sisters reach Horovod's build unchanged
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
VENV=$ROOT/.venv
LOGS=$ROOT/.cache/setup
TORCH_VERSION=${TORCH_VERSION:-2.13.0}
EXTRAS=mpi,demo,report,test,lint,docs
PIP=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)

# shellcheck source=launch/common.sh
source launch/common.sh
# shellcheck source=launch/system_packages.sh
source launch/system_packages.sh
# shellcheck source=launch/build_horovod.sh
source launch/build_horovod.sh

provide_venv() {
    local inputs
    # Inside an activated .venv, python3 is the very interpreter this may have to replace: go by the one behind it.
    PYTHON=$("$PYTHON" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
    inputs=$("$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)' | digest "$ROOT" -)
    if stamped venv "$inputs" && "$VENV/bin/python" -c '' 2>/dev/null; then return 0; fi
    say "Making .venv with $("$PYTHON" --version)."
    rm -rf "$VENV"
    logged venv "$PYTHON" -m venv "$VENV"
    logged pip-upgrade "${PIP[@]}" install --upgrade "pip>=23.1"
    stamp venv "$inputs"
}

provide_torch() {
    local inputs
    inputs=$(digest "$TORCH_VERSION $(<"$VENV/.alq-hvd/venv")" launch/requirements-build.txt)
    if stamped torch "$inputs" && installed torch numpy mpi4py; then return 0; fi
    say "Installing PyTorch $TORCH_VERSION and what Horovod's build needs."
    unstamp torch
    logged pip-torch "${PIP[@]}" install "torch==$TORCH_VERSION" -r launch/requirements-build.txt
    stamp torch "$inputs"
}

provide_package() {
    local packaging sources
    packaging=$(digest "$EXTRAS $(<"$VENV/.alq-hvd/torch")" setup.cfg setup.py pyproject.toml)
    sources=$(digest "$packaging" setup.py alq_hvd/codec/csrc/* alq_hvd/{accumulation,checkpoint}/*.cpp)
    if ! stamped package "$packaging" || ! installed alq-hvd scipy; then
        say "Installing alq_hvd, its compiled codec and the packages for tests, plots and documentation."
        unstamp extension
        # The pin again, so that no requirement of another package replaces the PyTorch that Horovod was built for.
        logged pip-package "${PIP[@]}" install --no-build-isolation "torch==$TORCH_VERSION" -e ".[$EXTRAS]"
        stamp package "$packaging"
        stamp extension "$sources"
    elif ! stamped extension "$sources" || ! compgen -G "alq_hvd/codec/_native*.so" >/dev/null ||
        ! compgen -G "alq_hvd/checkpoint/_shield*.so" >/dev/null ||
        ! compgen -G "alq_hvd/accumulation/_native*.so" >/dev/null; then
        say "The C++ sources have changed: compiling the codec again."
        unstamp extension
        logged build-codec "$VENV/bin/python" setup.py build_ext --inplace
        stamp extension "$sources"
    fi
}

provide_system_packages
mkdir -p "$LOGS"
# Two set-ups at once (make demo in one window, make test in another) would spoil one .venv.
exec {lock}>"$ROOT/.cache/setup.lock"
flock -n "$lock" || { say "Another set-up is at work in this checkout: waiting for it."; flock "$lock"; }
provide_venv
provide_torch
provide_horovod
provide_package
say "Ready: .venv has PyTorch $(torch_version), Horovod $HOROVOD_VERSION and alq_hvd."
