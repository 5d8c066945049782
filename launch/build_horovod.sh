# Sourced by setup.sh: build Horovod for the installed PyTorch once, keep the wheel, install it.
# shellcheck shell=bash

HOROVOD_VERSION=0.28.1
CACHE=${ALQ_HVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/alq-hvd}

# Print the cmake to configure Horovod with: the system's, or PyPI's where that one is missing, too old or too new.
choose_cmake() {
    if usable_cmake cmake; then
        command -v cmake
    elif usable_cmake "$VENV/bin/cmake"; then
        say "$VENV/bin/cmake"
    fi
}

build_horovod_wheel() {
    local target=$1 cmake
    if [[ -z $(choose_cmake) ]]; then
        say "No cmake from 3.13 up to, not including, 4: putting PyPI's into .venv."
        logged pip-cmake "${PIP[@]}" install "cmake>=3.18,<4"
    fi
    cmake=$(choose_cmake)
    say "Building Horovod $HOROVOD_VERSION for PyTorch $(torch_version): 2 to 6 minutes, once; the wheel is kept in $target"
    # An interrupted build leaves a directory of another name, never a wheel that looks finished.
    (umask 022 && mkdir -p "$CACHE/wheels")
    PART=$(mktemp -d "$CACHE/wheels/part.XXXXXX")
    chmod 755 "$PART" # mktemp's 700 would lock out the others of a shared cache
    # --no-cache-dir: pip's own cache of wheels knows the version of Horovod but not of PyTorch or MPI, and would hand out a
    # wheel built for others. LDFLAGS=-s: 1 MB instead of 65.
    logged build-horovod env PATH="$VENV/bin:$PATH" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_CMAKE="$ROOT/launch/cmake_for_horovod.sh" ALQ_HVD_CMAKE="$cmake" \
        MAKEFLAGS="-j${ALQ_HVD_JOBS:-$(nproc)}" LDFLAGS=-s \
        "${PIP[@]}" wheel -v --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$PART" "horovod==$HOROVOD_VERSION"
    "$VENV/bin/python" "$ROOT/launch/wheel_key.py" "$HOROVOD_VERSION" --explain >"$PART/inputs.json"
    # Another set-up may have finished the same wheel meanwhile: then its copy is as good as ours.
    has_wheel "$target" || { rm -rf "$target"; mv -T "$PART" "$target"; }
    rm -rf "$PART"
    PART=''
}

# A wheel is code: whoever may write the cache decides what is installed here.
require_own_cache() {
    local open
    [[ -d $CACHE ]] || return 0
    open=$(find -L "$CACHE" -maxdepth 3 \( -type d -o -name '*.whl' \) -perm -o+w -print -quit)
    [[ -z $open ]] || die "everybody may write $open, and so choose what is installed here: chmod o-w it, or name another cache with ALQ_HVD_CACHE"
}

has_wheel() { compgen -G "$1/horovod-*.whl" >/dev/null; }

torch_version() { "$VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))'; }

provide_horovod() {
    local key wheels
    key=$("$VENV/bin/python" "$ROOT/launch/wheel_key.py" "$HOROVOD_VERSION")
    wheels=$CACHE/wheels/$key
    if stamped horovod "$key" && installed horovod; then return 0; fi
    require_own_cache
    if has_wheel "$wheels"; then
        say "Horovod $HOROVOD_VERSION for PyTorch $(torch_version) is in the cache: $wheels"
    else
        build_horovod_wheel "$wheels"
    fi
    unstamp horovod
    logged pip-horovod "${PIP[@]}" install --no-deps --no-index --force-reinstall "$wheels"/horovod-*.whl
    logged check-horovod "$VENV/bin/python" -c \
        'import horovod.torch as hvd; assert hvd.mpi_built(), "built without MPI"; assert hvd.gloo_built(), "built without Gloo"'
    stamp horovod "$key"
}
