"""Batch scripts: what options render to, letter by letter; what is refused, by name; what the shell makes of it."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alq_hvd import cli
from alq_hvd.cli.sbatch import add_parser, command_line
from alq_hvd.errors import ConfigurationError
from alq_hvd.slurm.network import Network
from alq_hvd.slurm.options import JobOptions
from alq_hvd.slurm.render import ARRAY_NAMES, NAMES, directives, quote, render
from tests.support.cases import each

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests/golden/sbatch").glob("*.sbatch")) + sorted((ROOT / "slurm").glob("*.sbatch"))


def recorded_command(script: str) -> list[str]:
    """Return the arguments of the ``alq-hvd`` that rendered a script."""
    line = next(line for line in script.splitlines() if line.startswith("# Rendered by: alq-hvd "))
    return shlex.split(line.removeprefix("# Rendered by: alq-hvd "))


def test_there_are_the_variants_that_people_ask_for() -> None:
    assert {path.name for path in GOLDEN if path.parent.name == "slurm"} >= {
        "train.sbatch", "gpus-16-2x8.sbatch", "gpus-16-4x4.sbatch", "gpus-32-4x8.sbatch", "gpus-32-8x4.sbatch",
        "cpu-4x4.sbatch",
    }  # fmt: skip
    assert len(GOLDEN) >= 12


@each("path", GOLDEN)
def test_rendering_gives_the_kept_script(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a change is meant: ``python tests/golden/make_sbatch.py`` renders all of them again."""
    assert cli.main(recorded_command(path.read_text())) == 0
    assert capsys.readouterr().out == path.read_text()


@each("path", GOLDEN)
def test_the_shell_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=100)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, str(path)], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == ""


@each("path", GOLDEN)
def test_no_option_follows_the_first_command(path: Path) -> None:
    """Slurm stops reading ``#SBATCH`` at the first line that is neither a comment nor empty."""
    lines = path.read_text().splitlines()
    first = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    assert sum(line.startswith("#SBATCH --requeue") for line in lines) == 1


@each(
    ("arguments", "message"),
    [
        ("--nodes 0", "nodes: expected an integer from 1 to"),
        ("--gpus-per-node -1", "gpus_per_node: expected an integer from 0 to 64, got -1"),
        ("--gpus-per-node 4 --tasks-per-node 8", "tasks_per_node: expected 4, one task a GPU, got 8"),
        ("--gpus-per-node 0", "tasks_per_node: expected how many ranks a node of a CPU job runs"),
        ("--time 90", "time: expected HH:MM:SS or D-HH:MM:SS, got '90'"),
        (
            "--time 00:05:00",
            "signal_seconds: expected at most 240, a minute less than the time limit 00:05:00, got 300",
        ),
        ("--partition 'a b'", "partition: expected a word without spaces or quotes, got 'a b'"),
        ("--mpi pmi1", "mpi: expected one of pmix, pmix_v2, .*, none, got 'pmi1'"),
        ("--cpu-bind core", "cpu_bind: expected one of none, cores, .*, got 'core'"),
        ("--gpu-bind single", "gpu_bind: expected one of none, closest, single:N, .*, got 'single'"),
        ("--interface 'ib0;'", "interface: expected a name such as ib0 or eth0, got 'ib0;'"),
        ("--adapters mlx5_0", "adapters: expected NAME:PORT such as mlx5_0:1, got 'mlx5_0'"),
        ("--apptainer a.sif --mount data", "mount: expected /SOURCE:/TARGET, both absolute, .*got 'data'"),
        ("--mount /data:/data", "mount: expected --apptainer or --pyxis with it, got neither"),
        ("--launcher mpirun --pyxis a.sqsh", "launcher: expected srun, which alone can start Pyxis.*, got mpirun"),
        ("--launcher horovodrun --pyxis a.sqsh", "launcher: expected srun, .*got horovodrun"),
        ("--launcher torchrun", "command: expected a program of torch.distributed behind --, got the default"),
        (
            "--launcher torchrun --scaling -- python a.py %r",
            "launcher: expected srun, which alone starts ranks on a part",
        ),
        ("--array many", "array: expected indices such as 0-9, .*got 'many'"),
        ("--array 0-3,", "array: expected indices such as 0-9"),
        ("--array 3-1", "array: expected indices that rise, .*got '3-1'"),
        ("--array 0-9:0", "array: expected indices that rise, .*in steps of at least 1"),
        ("--array 0-4000001", "array: expected indices that rise, of at most 4000000"),
        ("--array 0-9 --scaling", "array: expected none with --scaling, which is one job, got '0-9'"),
        ("--array 0-9%0", "array: expected at least one task at once"),
        ("--mem 4G --mem-per-cpu 1G", "memory_per_cpu: expected one of memory and memory_per_cpu, got '4G' and '1G'"),
        ("--gres gpu:a100:2", "gres: expected 4 GPUs in it, the number of gpus_per_node, got 'gpu:a100:2'"),
        ("--gres gpu:a100:2,gpu:v100:1,disk:1", "gres: expected 4 GPUs in it"),
        ("--gpus-per-node 0 --tasks-per-node 2 --gres gpu", "gres: expected 0 GPUs in it"),
        ("--exclude 'n1 n2'", "exclude: expected a word without spaces or quotes, got 'n1 n2'"),
        ("--nodelist ''", "nodelist: expected a word"),
        ("--dependency 'afterok:1;x'", "dependency: expected a word"),
        ("--mail-user 'a b'", "mail_user: expected a word"),
        ("--sbatch-option=--licenses=a", "sbatch_option: expected NAME or NAME=VALUE without --, got '--licenses=a'"),
        ("--sbatch-option 'a b'", "sbatch_option: expected NAME or NAME=VALUE without --"),
        ("--sbatch-option licenses=", "sbatch_option: expected NAME or NAME=VALUE"),
        ('--sbatch-option "comment=a\nexit"', "sbatch_option: expected NAME or NAME=VALUE"),
        (
            "--sbatch-option nodes=3",
            "sbatch_option: expected an option that .* does not set itself, got 'nodes'",
        ),
        ("--sbatch-option no-requeue", "sbatch_option: expected an option that alq-hvd sbatch does not set itself"),
        ("--module 'x y'", "modules: expected a word without spaces"),
    ],
)
def test_what_can_not_work_is_refused_by_name(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sbatch", *shlex.split(arguments)]) == cli.ERROR_STATUS
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--launcher ssh", "--nccl-debug LOUD", "--venv a --apptainer b.sif"])
def test_argparse_lists_the_choices(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sbatch", *arguments.split()])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "choose from" in printed or "not allowed with" in printed


def test_every_word_reaches_the_program_unchanged(tmp_path: Path) -> None:
    words = ["printf", "%s\n", "a b", "it's", "$HOME", 'say "hi"', "x%jy", "%j", "", "back\\slash", "`id`", "--a=*"]
    shell = " ".join(quote(word) for word in words)
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, timeout=20, env={"SLURM_JOB_ID": "42"}
    )
    assert done.stdout.splitlines() == [word.replace("%j", "42") for word in words[2:]]


def test_a_task_of_an_array_speaks_of_itself_alone_and_a_single_job_of_no_array(tmp_path: Path) -> None:
    """The number of a task can be that of the whole array: the script must not requeue by it."""
    command = ["python", "train.py", "--seed=%a", "--output=runs/%A-%a", "--checkpoint=%j"]
    script = render(JobOptions(array="1-3,7%2", command=command))
    assert "#SBATCH --array=1-3,7%2\n" in script
    assert 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in script
    assert 'squeue --noheader --jobs="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in script
    words = [quote(word, {**NAMES, **ARRAY_NAMES}) for word in command]
    numbers = {"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "38", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(
        ["bash", "-c", "printf '%s\\n' " + " ".join(words)], capture_output=True, text=True, timeout=20, env=numbers
    )
    assert done.stdout.splitlines() == ["python", "train.py", "--seed=2", "--output=runs/38-2", "--checkpoint=40"]
    single = render(JobOptions(command=command))
    assert "--seed=%a" in single
    assert "ARRAY" not in single


def test_a_command_on_several_lines_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="command: expected words of one line"):
        JobOptions(command=["python", "a\nb"])


def test_the_recorded_command_leaves_out_what_is_default_and_where_the_script_goes() -> None:
    parser = add_parser(argparse.ArgumentParser().add_subparsers())
    given = ["--nodes", "2", "--gpus-per-node", "4", "--submit", "--output", "x", "--exclusive", "--module", "a",
             "--module", "b", "--adapters", "mlx5_0:1", "mlx5_1:1", "--", "python", "a.py", "--lr", "1"]  # fmt: skip
    assert command_line(parser.parse_args(given)) == [
        "alq-hvd", "sbatch", "--nodes", "2", "--exclusive", "--module", "a", "--module", "b",
        "--adapters", "mlx5_0:1", "mlx5_1:1", "--", "python", "a.py", "--lr", "1",
    ]  # fmt: skip


def test_ranks_get_the_jobs_environment_however_it_was_submitted() -> None:
    """SLURM_EXPORT_ENV=NONE, which ``sbatch --export=NONE`` sets, makes srun start its tasks with an empty one."""
    for path in GOLDEN:
        script = path.read_text()
        calls = re.findall(r"^\s*srun .*", script, re.MULTILINE)
        assert all(call.split()[1] == "--export=ALL" for call in calls), path
        assert bool(calls) != ("export SLURM_EXPORT_ENV=ALL" in script), path
    assert "exec srun --export=ALL " in (ROOT / "launch/check_cluster.sh").read_text()


def test_options_of_sbatch_become_directives() -> None:
    lines = directives(
        JobOptions(
            gpus_per_node=3, gres="gres/gpu:a100:2,gpu,disk:9", nodelist="n[1-4]", exclude="n3", dependency="singleton",
            memory_per_cpu="2G", mail_user="me@example.org", more=["licenses=a:1", "get-user-env"],
        )
    )  # fmt: skip
    assert {
        "#SBATCH --gres=gres/gpu:a100:2,gpu,disk:9", "#SBATCH --nodelist=n[1-4]", "#SBATCH --exclude=n3",
        "#SBATCH --dependency=singleton", "#SBATCH --mem-per-cpu=2G", "#SBATCH --mail-user=me@example.org",
        "#SBATCH --mail-type=END,FAIL,REQUEUE", "#SBATCH --licenses=a:1", "#SBATCH --get-user-env",
    } <= set(lines)  # fmt: skip
    assert not any("gpus-per-node" in line for line in lines)
    assert "#SBATCH --gpus-per-node=4" in directives(JobOptions(gres="disk:9"))
    assert not any("mail" in line for line in directives(JobOptions()))


def test_a_cpu_job_asks_for_no_gpu_and_says_nothing_of_nccl() -> None:
    options = JobOptions(gpus_per_node=0, tasks_per_node=3, nodes=2, network=Network("eth0", ["mlx5_0:1"]))
    assert options.ranks == 6
    assert not any("gpu" in line for line in directives(options))
    script = render(options)
    assert "NCCL" not in script and "--gpu-bind" not in script
    assert 'export UCX_NET_DEVICES="mlx5_0:1"' in script


def test_output_is_written_and_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "job.sbatch"
    assert cli.main(["sbatch", "--dry-run", "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#!/usr/bin/env bash\n")
    assert not target.exists()
    assert cli.main(["sbatch", "--output", str(target)]) == 0
    assert target.read_text() == printed
    assert capsys.readouterr().out == ""


def test_submit_hands_the_script_to_sbatch_and_tells_its_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = tmp_path / "sbatch"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["sbatch", "--submit"]) == cli.ERROR_STATUS
    assert "alq-hvd sbatch: no sbatch on the PATH" in capsys.readouterr().err
    stand_in.write_text(f"#!/bin/bash\n/bin/cat >{tmp_path}/received\necho Submitted batch job 7\n")
    stand_in.chmod(0o755)
    assert cli.main(["sbatch", "--submit", "--nodes", "2"]) == 0
    assert capsys.readouterr().out == "Submitted batch job 7\n"
    assert "#SBATCH --nodes=2\n" in (tmp_path / "received").read_text()
    stand_in.write_text("#!/bin/bash\n/bin/cat >/dev/null\necho 'invalid partition specified: x' >&2\nexit 1\n")
    assert cli.main(["sbatch", "--submit", "--partition", "x"]) == cli.ERROR_STATUS
    assert "sbatch refused the job: invalid partition specified: x" in capsys.readouterr().err


def test_the_guide_names_files_that_exist() -> None:
    guide = (ROOT / "docs/guides/slurm.md").read_text()
    for name in re.findall(r"`([\w-]+\.sbatch)`", guide):
        assert (ROOT / "slurm" / name).exists(), name
    for name in re.findall(r"\b((?:launch|examples|alq_hvd|tests)/[\w/]+\.?\w*)", guide):
        assert (ROOT / name).exists(), name
