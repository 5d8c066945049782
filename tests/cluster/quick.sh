#!/usr/bin/env bash
# Run the cluster tests that CI has time for: Slurm comes up, 16 ranks train to the end, a stopped job goes on bit for bit.
# Where the machine cannot hold a cluster, one line says why, and that is no failure.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

not_here() { echo "The cluster tests did not run here: $*"; exit 0; }

why=$(./tests/cluster/possible.sh) || not_here "$why"
./tests/cluster/install.sh || not_here "Debian's Slurm could not be installed (above)"
why=$(./tests/cluster/possible.sh) || not_here "$why"
jobs=tests/cluster/test_jobs.py
exec timeout --kill-after=30 "${CLUSTER_SECONDS:-900}" .venv/bin/python -m pytest -m cluster \
    tests/cluster/test_bring_up.py \
    "$jobs::test_four_nodes_of_four_gpus_train_to_the_end" \
    "$jobs::test_a_signal_sends_it_back_into_the_queue_and_it_ends_as_if_nothing_had_been[srun]"
