#!/usr/bin/env bash
# Start a training on this machine with horovodrun: one rank a GPU, or one a core where there is no GPU.
#
#   launch/local.sh examples/train_images.py --compression alq --bits 3
#   launch/local.sh -np 2 --gloo examples/minimal.py
#
#   -np N     number of ranks
#   --gloo    without MPI
#   PYTHON=.. the interpreter; default: the .venv of this checkout, else python3
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
ranks='' options=()
while (($#)); do
    case $1 in
        -np) ranks=${2:-}; [[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "-np: expected a number from 1, got '$ranks'" >&2; exit 2; }; shift 2 ;;
        --gloo) options+=(--gloo); shift ;;
        -h | --help) usage ;;
        -*) echo "expected -np, --gloo or a Python program, got $1" >&2; exit 2 ;;
        *) break ;;
    esac
done
(($#)) || usage
[[ -f $1 ]] || { echo "expected a Python program, got $1: no such file" >&2; exit 2; }

cores=$(nproc)
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true)
((gpus)) && default=$gpus || default=$cores
ranks=${ranks:-$default}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}
# More ranks than cores: a rank that waits must make room, not spin.
((ranks <= cores)) || export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
bin=$(dirname "$python")
[[ -x $bin/horovodrun ]] || { echo "no horovodrun beside $python: run 'make setup' in $root" >&2; exit 2; }
PATH=$bin:$PATH exec "$bin/horovodrun" -np "$ranks" "${options[@]}" "$python" "$@"
