#!/usr/bin/env bash
# Build the wheel, look at what is in it, install it into an empty environment that has torch and neither Horovod nor MPI,
# and train there on two ranks, under DDP and under FSDP2. Takes a minute or two, most of it the compiler's.
# --no-index instead of the network: what the wheel needs is lent from the environment of this checkout.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/source" "$work/lent"
git -C "$root" archive HEAD | tar -x -C "$work/source"
"$python" -m pip wheel -q "$work/source" --no-deps --no-build-isolation -w "$work/dist"
# setup.py compiled into $work/source: the build's own files are no part of the checkout.
git -C "$root" archive --prefix=checkout/ HEAD alq_hvd | tar -x -C "$work"
"$python" "$root/tests/support/wheel_contents.py" "$work"/dist/*.whl "$work/checkout"
"$python" -m venv "$work/empty"
site=$("$python" -c 'import numpy, pathlib; print(pathlib.Path(numpy.__file__).parents[1])')
for name in numpy numpy.libs scipy scipy.libs torch torchgen functorch typing_extensions.py sympy mpmath networkx jinja2 \
    markupsafe filelock fsspec setuptools "$site"/{numpy,scipy,torch}-*.dist-info; do
    name=${name##*/}
    if [[ -e $site/$name ]]; then ln -s "$site/$name" "$work/lent/$name"; fi
done
"$work/empty/bin/python" -m pip install -q --no-deps --no-index "$work"/dist/*.whl
library=$("$work/empty/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$work/lent" >"$library/lent.pth"

# Programs outside the checkout, which is on no path: they can only find the wheel.
cp "$work/source/examples/ddp_minimal.py" "$work/source/examples/fsdp_minimal.py" "$work"
cd "$work"
unset PYTHONPATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$work/empty/bin/python" - <<'END'
import importlib.util
from pathlib import Path
import sys

import alq_hvd

assert not [name for name in ("horovod", "mpi4py") if importlib.util.find_spec(name)]
assert Path(alq_hvd.__file__).is_relative_to(sys.prefix), alq_hvd.__file__
from alq_hvd.codec.choice import choose_codec

print("codec:", type(choose_codec("native")).__name__)
END
for program in ddp_minimal fsdp_minimal; do
    echo "$program: $(timeout 200 "$work/empty/bin/python" -m torch.distributed.run --standalone --nproc-per-node=2 \
        "$program.py" | tail -n 1)"
done
{ "$work/empty/bin/alq-hvd" doctor || true; } | tee doctor.txt | grep 'Front end'
grep -q 'Front end DDP: can run' doctor.txt
echo "The wheel works without Horovod and MPI."
