#!/usr/bin/env bash
# Run the GPU tests, or the GPU benchmark, on a machine that has a GPU and little else: a checkout, a Python with torch, cupy,
# numpy, scipy, pytest, pytest-timeout, hypothesis and pybind11, and g++. No Horovod, MPI, network or .venv is needed:
# training there is under DDP, two ranks over Gloo and one over NCCL.
#
#   bash tests/gpu/run.sh            # builds the C++ codec if it is not there, and runs the tests
#   bash tests/gpu/run.sh bench      # measures; the figures go to codec-cuda.json
#
#   PYTHON=python3.12   the interpreter (default: python3)
#   OUT=DIR             where the JSON goes (default: benchmarks/results)
#   LIMIT=530           seconds after which what runs is ended
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
LIMIT=${LIMIT:-530}
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

case ${1:-test} in
    test)
        status=0
        timeout "$LIMIT" "$PYTHON" -m pytest -q -m gpu tests/gpu --junitxml="$OUT/gpu-tests.xml" -p no:cacheprovider || status=$?
        "$PYTHON" tests/gpu/summary.py "$OUT/gpu-tests.xml" "$OUT/gpu-tests.json"
        exit "$status"
        ;;
    bench)
        timeout "$LIMIT" "$PYTHON" benchmarks/codec.py --device cuda --bits 3,4 --repeats 10 --output "$OUT/codec-cuda.json"
        ;;
    *)
        echo "tests/gpu/run.sh: expected test or bench, got $1" >&2
        exit 2
        ;;
esac
