#!/usr/bin/env bash
# Look at every node for half a minute before the real job: interconnect, MPI, GPUs, clocks, versions. One rank a node
# runs `alq-hvd nodes`, which prints a table, names the odd nodes and ends with status 1 when there are any.
#
#   sbatch --nodes 4 --time 00:10:00 launch/check_cluster.sh         # add --gpus-per-node 4 to see the GPUs
#   launch/check_cluster.sh -H node01,node02                         # without Slurm, over ssh
#
#   PYTHON=..  the interpreter; default: .venv of the directory it is called in, else python3
#   MPI=pmix   what srun offers MPI
#SBATCH --job-name=check-cluster
#SBATCH --ntasks-per-node=1
set -euo pipefail

# Slurm runs a copy of this file: what belongs to it is found from where the job was submitted.
python=${PYTHON:-$PWD/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3)
if [[ ${1:-} == -H && -n ${2:-} ]]; then
    hosts=$2
    count=$(tr ',' '\n' <<<"$hosts" | wc -l)
    as_root=()
    [[ $(id -u) != 0 ]] || as_root=(--allow-run-as-root)
    exec mpirun -np "$count" -H "$hosts" --map-by node "${as_root[@]}" "$python" -m alq_hvd nodes "${@:3}"
elif [[ -n ${SLURM_JOB_ID:-} ]]; then
    exec srun --export=ALL --mpi="${MPI:-pmix}" --ntasks-per-node=1 --gpu-bind=none "$python" -m alq_hvd nodes "$@"
fi
sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
exit 2
