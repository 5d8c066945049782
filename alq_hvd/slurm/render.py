"""From options to the text of a batch script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files

from alq_hvd.checkpoint.preemption import PREEMPTED_STATUS
from alq_hvd.run_record import RESULT_FILE
from alq_hvd.slurm.options import JobOptions
from alq_hvd.slurm.sweep import RUN_FOLDER, Sweep

_TRAIN, _SCALING, _REQUEUE = "train.sbatch.in", "scaling.sbatch.in", "requeue.sh.in"
NAMES = {"%j": '"$SLURM_JOB_ID"'}
"""What stands in a command for something that is known when the job runs."""
ARRAY_NAMES = {"%A": '"$SLURM_ARRAY_JOB_ID"', "%a": '"$SLURM_ARRAY_TASK_ID"'}
_FIND_MODULES = """\
if ! type module >/dev/null 2>&1; then # a batch shell is no login shell
    for init in /etc/profile.d/{lmod,z00_lmod,modules}.sh; do
        # shellcheck source=/dev/null
        if [[ -r $init ]]; then source "$init" && break; fi
    done
fi"""
_FORWARD = """\
# The launcher runs beside this shell, which hands Slurm's signal on to it; a signal also ends `wait`, hence the loop.
{call} &
launcher=$!
trap 'signalled=1; kill -USR1 "$launcher"' USR1
while :; do
    signalled=0 status=0
    wait "$launcher" || status=$?
    ((signalled)) || break
done"""


def render(options: JobOptions, command_line: Sequence[str] = ("alq-hvd", "sbatch")) -> str:
    """Return the batch script of ``options``; ``command_line`` is quoted in it, to render it again."""
    return _fill(_TRAIN, {**_common(options, command_line), "LAUNCH": _launch(options)})


def render_sweep(options: JobOptions, sweep: Sweep, command_line: Sequence[str] = ("alq-hvd", "sbatch")) -> str:
    """Return the batch script that runs ``options.command`` for every method of ``sweep`` at every size.

    Raises:
        ConfigurationError: when options and sweep do not fit together.
    """
    sweep.require_fit(options)
    environment = options.environment
    own = ['--nodes="$nodes"', f'--ntasks="$((nodes * {options.ranks_per_node}))"',
           f"--ntasks-per-node={options.ranks_per_node}"]  # fmt: skip
    # Only srun's containers need a step for the report; everything else is on the node that runs this script.
    step = ["srun", "--export=ALL", "--nodes=1", "--ntasks=1", *environment.srun_options()]
    alone = step if environment.srun_options() else []
    report = [*alone, *environment.wrap(gpus=False), "alq-hvd", "report", '"$runs"', "--output", '"$runs/scaling.html"']
    parts = {
        "RUNS": quote(sweep.runs),
        "METHODS": "\n".join(f"    [{name}]={shlex.quote(words)}" for name, words in sweep.methods.items()),
        "SIZES": " ".join(map(str, sweep.sizes)),
        "NAMES": " ".join(sweep.methods),
        "RESULT": RESULT_FILE,
        "LAUNCH": _launch(options, own, ['"${arguments[@]}"']).replace("\n", "\n        "),
        "REPORT": " ".join(report),
    }
    return _fill(_SCALING, {**_common(options, command_line), **parts})


def _common(options: JobOptions, command_line: Sequence[str]) -> dict[str, str]:
    return {
        "COMMAND": shlex.join(command_line),
        "DIRECTIVES": "\n".join(directives(options)),
        "ENVIRONMENT": "\n".join(_environment(options)),
        "NETWORK": "\n".join(_network(options)),
        "REQUEUE": _template(_REQUEUE).rstrip("\n"),
        "JOB": _job(options),
        "PREEMPTED": str(PREEMPTED_STATUS),
        "RESTARTS": str(options.restarts),
        "SECONDS": str(options.signal_seconds),
    }


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Put ``parts`` in the place of their names; ``REQUEUE`` has names in it too."""
    text = _template(template).replace("@REQUEUE@", parts["REQUEUE"])
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1]], text)


def _template(name: str) -> str:
    return (files("alq_hvd.slurm") / name).read_text(encoding="utf-8")


def directives(options: JobOptions) -> list[str]:
    """Return the ``#SBATCH`` lines."""
    to_script = "B:" if options.launcher.signal_to_script else ""
    settings: list[tuple[str, str | int | None]] = [
        ("job-name", options.name),
        ("nodes", options.nodes),
        ("ntasks-per-node", options.ranks_per_node),
        ("gpus-per-node", None if options.names_gpus else options.gpus_per_node or None),
        ("gres", options.gres),
        ("cpus-per-task", options.cpus_per_task),
        ("mem", options.memory),
        ("mem-per-cpu", options.memory_per_cpu),
        ("time", options.time),
        ("array", options.array),
        ("partition", options.partition),
        ("account", options.account),
        ("qos", options.qos),
        ("constraint", options.constraint),
        ("reservation", options.reservation),
        ("nodelist", options.nodelist),
        ("exclude", options.exclude),
        ("dependency", options.dependency),
        ("mail-user", options.mail_user),
        ("mail-type", options.mail_user and options.mail_type),
        ("signal", f"{to_script}USR1@{options.signal_seconds}"),
        ("output", options.log),
        ("open-mode", "append"),
    ]
    lines = [f"#SBATCH --{name}={value}" for name, value in settings if value is not None]
    lines += ["#SBATCH --exclusive"] if options.exclusive else []
    return [*lines, "#SBATCH --requeue", *(f"#SBATCH --{option}" for option in options.more)]


def _job(options: JobOptions) -> str:
    """Return how the script calls its job when it talks to Slurm.

    The number of one task of an array is also the number of the whole array: requeueing that would requeue all.
    """
    return "$SLURM_JOB_ID" if options.array is None else "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"


def _environment(options: JobOptions) -> list[str]:
    lines = []
    if options.modules:
        lines += [_FIND_MODULES, "module purge", f"module load {shlex.join(options.modules)}"]
    if options.launcher.signal_to_script:
        lines.append("export SLURM_EXPORT_ENV=ALL # for the srun that the launcher itself may call")
    return [*lines, *options.environment.enter(), 'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"']


def _network(options: JobOptions) -> list[str]:
    chosen = options.network.variables(gpus=options.gpus_per_node > 0)
    lines = [f'export {name}="{value}"' for name, value in chosen.items()]
    return lines or ["# Network: left to the libraries' own search; --interface and --adapters name one."]


def _launch(options: JobOptions, first: Sequence[str] = (), last: Sequence[str] = ()) -> str:
    """Return the call that starts the ranks; ``first`` are more words for srun, ``last`` for the program."""
    gpus = options.gpus_per_node > 0
    exported = ["OMP_NUM_THREADS", *options.network.variables(gpus)]
    lines = options.launcher.words(options.environment, options.ranks, gpus, exported)
    lines[1:1] = [list(first)] if first else []
    if wrap := options.environment.wrap(gpus):
        lines.append(wrap)
    if inside := options.launcher.inside(options.ranks_per_node):
        lines.append(inside)
    program, arguments = _split(options.command)
    names = NAMES if options.array is None else {**NAMES, **ARRAY_NAMES}
    names = {**names, RUN_FOLDER: '"$run"'} if last else names
    lines += [[quote(word, names) for word in words] for words in (program, *arguments)]
    lines += [list(last)] if last else []
    call = " \\\n    ".join(" ".join(line) for line in lines)
    if options.launcher.signal_to_script:
        return _FORWARD.format(call=call)
    return f"{call} || status=$?"


def _split(command: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Split a command for reading: the program with what precedes its first option, then one option a line."""
    first = next((place for place, word in enumerate(command) if word.startswith("-")), len(command))
    arguments: list[list[str]] = []
    for word in command[first:]:
        if word.startswith("-") or not arguments:
            arguments.append([])
        arguments[-1].append(word)
    return list(command[:first]), arguments


def quote(word: str, names: Mapping[str, str] = NAMES) -> str:
    """Return ``word`` as the shell must read it, with what stands for a variable, such as ``%j``, replaced by it."""
    parts = re.split(f"({'|'.join(map(re.escape, names))})", word)
    return "".join(names.get(part) or (shlex.quote(part) if part else "") for part in parts) or "''"
