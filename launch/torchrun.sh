#!/usr/bin/env bash
# Start a program of torch.distributed with torchrun: on this machine, or, run on each of several, on all of them.
#
#   launch/torchrun.sh -np 2 train.py --lr 0.1
#   launch/torchrun.sh -np 4 --nodes 2 --node 0 --endpoint node01:29400 train.py      # on node01; --node 1 on the other
#
#   -np N                 ranks on this machine; default: one a GPU, or one a core where there is no GPU
#   --nodes N             machines in all
#   --node I              number of this machine, from 0
#   --endpoint HOST:PORT  of machine 0, which all of them reach
#   PYTHON=..             the interpreter; default: the .venv of this checkout, else python3
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
ranks='' options=()
while (($#)); do
    case $1 in
        -np) ranks=${2:-}; [[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "-np: expected a number from 1, got '$ranks'" >&2; exit 2; }; shift 2 ;;
        --nodes | --node | --endpoint) options+=("$1=${2:?$1: expected a value}"); shift 2 ;;
        -h | --help) usage ;;
        -*) echo "expected -np, --nodes, --node, --endpoint or a Python program, got $1" >&2; exit 2 ;;
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
exec "$python" -m alq_hvd torchrun --ranks="$ranks" "${options[@]}" -- "$python" "$@"
