#!/usr/bin/env bash
# Start a training with Open MPI's mpirun, on this machine or on several that ssh reaches without a password.
#
#   launch/mpirun.sh -np 4 examples/train_images.py --compression alq
#   launch/mpirun.sh -np 8 -H node01:4,node02:4 --interface eth0 examples/train_images.py
#
#   -np N             number of ranks, required
#   -H HOST:SLOTS,..  hosts and how many ranks each may run; inside a Slurm job leave it out
#   --interface NAME  the IP interface that all hosts share
#   PYTHON=..         the interpreter; default: the .venv of this checkout, else python3; the same path on all hosts
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
ranks='' hosts='' options=(--bind-to none --map-by slot -x PATH -x OMP_NUM_THREADS)
while (($#)); do
    case $1 in
        -np) ranks=${2:-}; shift 2 ;;
        -H) hosts=${2:-}; shift 2 ;;
        --interface)
            export NCCL_SOCKET_IFNAME="=${2:?--interface: expected a name such as eth0}"
            options+=(-x NCCL_SOCKET_IFNAME --mca btl_tcp_if_include "$2" --mca oob_tcp_if_include "$2")
            shift 2 ;;
        -h | --help) usage ;;
        -*) echo "expected -np, -H, --interface or a Python program, got $1" >&2; exit 2 ;;
        *) break ;;
    esac
done
(($#)) || usage
[[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "-np: expected a number from 1, got '$ranks'" >&2; exit 2; }
[[ -z $hosts || $hosts =~ ^[A-Za-z0-9_.-]+(:[0-9]+)?(,[A-Za-z0-9_.-]+(:[0-9]+)?)*$ ]] ||
    { echo "-H: expected HOST:SLOTS,HOST:SLOTS, got '$hosts'" >&2; exit 2; }
[[ -f $1 ]] || { echo "expected a Python program, got $1: no such file" >&2; exit 2; }

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ -n $hosts ]]; then
    options+=(-H "$hosts")
elif [[ -z ${SLURM_JOB_ID:-} ]]; then
    # All on this machine; more ranks than cores is fine, if those that wait make room.
    options+=(--oversubscribe)
    ((ranks <= $(nproc))) || options+=(--mca mpi_yield_when_idle 1)
fi
# mpirun refuses root unless asked; in a container root is all there is.
[[ $(id -u) != 0 ]] || options+=(--allow-run-as-root)
PATH=$(dirname "$python"):$PATH exec mpirun -np "$ranks" "${options[@]}" "$python" "$@"
