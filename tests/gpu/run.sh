#!/usr/bin/env bash
# Run the GPU tests, or the GPU benchmark, on a machine that has a GPU and little else: a checkout, a Python with torch, cupy,
# numpy, scipy, pytest, pytest-timeout, hypothesis and pybind11, and g++. No Horovod, MPI, network or .venv is needed:
# training there is under DDP, two ranks over Gloo and one over NCCL.
#
#   bash tests/gpu/run.sh            # builds the C++ codec if it is not there, and runs the tests
#   bash tests/gpu/run.sh bench      # measures; the figures go to codec-cuda.json
#   bash tests/gpu/run.sh sanitize   # runs every kernel under compute-sanitizer, once each tool
#
#   PYTHON=python3.12   the interpreter (default: python3)
#   OUT=DIR             where the JSON goes (default: benchmarks/results)
#   LIMIT=530           seconds after which what runs is ended
#   JOBS=8              processes that test at the same time, where pytest-xdist is installed (default: 1)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
LIMIT=${LIMIT:-530}
PARALLEL=()
[ "${JOBS:-1}" -le 1 ] || PARALLEL=(-n "$JOBS")
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$OUT"

"$PYTHON" - <<'EOF'
import importlib, sys
missing = []
for name in ("torch", "numpy", "scipy", "pytest", "pytest_timeout", "hypothesis", "pybind11", "setuptools"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing.append(f"{name} ({error})")
if missing:
    sys.exit(f"tests/gpu/run.sh: {sys.executable} lacks {', '.join(missing)}")
EOF
if ! "$PYTHON" -c 'import alq_hvd.codec._native' 2>/dev/null; then
    echo "Building the C++ codec, which takes a minute."
    "$PYTHON" setup.py --quiet build_ext --inplace
fi

# Ahead of the first use, on all cores: one by one, as they are first used, they take longer than the tests.
kernels() {
    local arch
    arch=$("$PYTHON" -c 'import torch; print("sm_%d%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else "")')
    [ -z "$arch" ] || "$PYTHON" -m alq_hvd kernels --arch "$arch" --bits "$1" | tail -n 1
}

case ${1:-test} in
    test)
        kernels 1,2,3,4,5,6,7,8
        status=0 # pytest-benchmark, where a machine has it, warns of pytest-xdist; warnings are errors here
        timeout "$LIMIT" "$PYTHON" -m pytest -q -m gpu tests/gpu "${PARALLEL[@]}" --junitxml="$OUT/gpu-tests.xml" -p no:cacheprovider -p no:benchmark || status=$?
        "$PYTHON" tests/gpu/summary.py "$OUT/gpu-tests.xml" "$OUT/gpu-tests.json"
        exit "$status"
        ;;
    sanitize)
        kernels 2,3,4,8
        for tool in ${TOOLS:-memcheck racecheck initcheck}; do
            echo "compute-sanitizer --tool $tool"
            timeout "$LIMIT" compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "$PYTHON" tests/gpu/every_kernel.py
        done
        ;;
    bench)
        kernels 3,4
        timeout "$LIMIT" "$PYTHON" benchmarks/codec.py --device cuda --bits 3,4 --repeats 10 --output "$OUT/codec-cuda.json"
        ;;
    *)
        echo "tests/gpu/run.sh: expected test, bench or sanitize, got $1" >&2
        exit 2
        ;;
esac
