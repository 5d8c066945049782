"""Render every kept batch script again: ``python tests/golden/make_sbatch.py``; then read the difference."""

from __future__ import annotations

import shlex
from pathlib import Path

from alq_hvd import cli

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "slurm/train.sbatch": "--nodes 2 --venv .venv",
    "slurm/gpus-16-4x4.sbatch": "--nodes 4 --gpus-per-node 4 --venv .venv",
    "slurm/gpus-16-2x8.sbatch": "--nodes 2 --gpus-per-node 8 --venv .venv",
    "slurm/gpus-32-4x8.sbatch": "--nodes 4 --gpus-per-node 8 --venv .venv",
    "slurm/gpus-32-8x4.sbatch": "--nodes 8 --gpus-per-node 4 --venv .venv",
    "slurm/cpu-4x4.sbatch": "--nodes 4 --gpus-per-node 0 --tasks-per-node 4 --cpus-per-task 4 --venv .venv",
    "slurm/scaling.sbatch": "--scaling --nodes 8 --job-name scaling --venv .venv",
    "tests/golden/sbatch/bare.sbatch": "",
    "tests/golden/sbatch/modules.sbatch": "--nodes 2 --module gcc/12.2 --module openmpi/4.1.5 --venv /home/me/env",
    "tests/golden/sbatch/apptainer.sbatch": "--nodes 2 --gpus-per-node 8 --apptainer '/images/my train.sif' "
    "--mount /data:/data --interface ib0",
    "tests/golden/sbatch/pyxis.sbatch": "--nodes 4 --gpus-per-node 8 --pyxis 'nvcr.io#nvidia/pytorch:24.05-py3' "
    "--mount /scratch:/data --adapters mlx5_0:1 mlx5_1:1 --nccl-debug INFO",
    "tests/golden/sbatch/mpirun.sbatch": "--nodes 4 --launcher mpirun --venv .venv --interface ib0 --adapters mlx5_0:1",
    "tests/golden/sbatch/horovodrun.sbatch": "--nodes 2 --launcher horovodrun --venv .venv",
    "tests/golden/sbatch/torchrun.sbatch": "--nodes 4 --gpus-per-node 8 --launcher torchrun --venv .venv "
    "--interface ib0 -- python train.py --checkpoint ckpt/%j",
    "tests/golden/sbatch/torchrun-pyxis.sbatch": "--nodes 2 --launcher torchrun --array 0-3 "
    "--pyxis 'nvcr.io#nvidia/pytorch:24.05-py3' -- python train.py --seed %a",
    "tests/golden/sbatch/scaling-pyxis.sbatch": "--scaling --nodes 3 --gpus-per-node 8 --pyxis 'my image.sqsh' "
    "--sizes 1 3 --method 'plain=--lr 0.1' --method 'ours=--lr 0.1 --bits 3' --runs 'sweeps/my sweep' "
    "-- python train.py --out %r --state %r/ckpt --name 'a b'",
    "tests/golden/sbatch/gres.sbatch": "--nodes 2 --gpus-per-node 2 --gres gpu:a100:2,nvme:1 --mem-per-cpu 4G "
    "--mail-user me --mail-type ALL",
    "tests/golden/sbatch/array.sbatch": "--nodes 2 --array 0-9%2 --log slurm-%A_%a.out --venv .venv -- python "
    "train.py --seed %a --output runs/%A/%a --checkpoint checkpoints/%j",
    "tests/golden/sbatch/everything.sbatch": "--nodes 3 --gpus-per-node 2 --cpus-per-task 16 --mem 200G --exclusive "
    "--time 1-12:00:00 --signal-seconds 600 --restarts 3 --partition gpu --account project-7 --qos long "
    "--constraint 'a100|h100' --reservation course --job-name resnet --log logs/%x-%j.out --mpi pmix_v4 "
    "--cpu-bind none --gpu-bind single:1 --nodelist 'n[1-8]' --exclude n3,n7 --dependency afterok:12:13 "
    "--mail-user me@example.org --sbatch-option licenses=matlab:1 --sbatch-option spread-job "
    "-- python train.py --name 'two words' --checkpoint ckpt/%j",
}


def main() -> None:
    for name, arguments in SCRIPTS.items():
        words = shlex.split(arguments)
        before, after = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, [])
        assert cli.main(["sbatch", *before, "--output", str(ROOT / name), *after]) == 0


if __name__ == "__main__":
    main()
