"""From options to the text of a batch script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib.resources import files

from alq_hvd.checkpoint.preemption import PREEMPTED_STATUS
from alq_hvd.slurm.options import JobOptions

TEMPLATE = "train.sbatch.in"
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
    template = (files("alq_hvd.slurm") / TEMPLATE).read_text(encoding="utf-8")
    parts = {
        "COMMAND": shlex.join(command_line),
        "DIRECTIVES": "\n".join(directives(options)),
        "ENVIRONMENT": "\n".join(_environment(options)),
        "NETWORK": "\n".join(_network(options)),
        "LAUNCH": _launch(options),
        "PREEMPTED": str(PREEMPTED_STATUS),
        "RESTARTS": str(options.restarts),
    }
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1]], template)


def directives(options: JobOptions) -> list[str]:
    """Return the ``#SBATCH`` lines."""
    to_script = "B:" if options.launcher.signal_to_script else ""
    settings: list[tuple[str, str | int | None]] = [
        ("job-name", options.name),
        ("nodes", options.nodes),
        ("ntasks-per-node", options.ranks_per_node),
        ("gpus-per-node", options.gpus_per_node or None),
        ("cpus-per-task", options.cpus_per_task),
        ("mem", options.memory),
        ("time", options.time),
        ("partition", options.partition),
        ("account", options.account),
        ("qos", options.qos),
        ("constraint", options.constraint),
        ("reservation", options.reservation),
        ("signal", f"{to_script}USR1@{options.signal_seconds}"),
        ("output", options.log),
        ("open-mode", "append"),
    ]
    lines = [f"#SBATCH --{name}={value}" for name, value in settings if value is not None]
    return [*lines, *(["#SBATCH --exclusive"] if options.exclusive else []), "#SBATCH --requeue"]


def _environment(options: JobOptions) -> list[str]:
    lines = []
    if options.modules:
        lines += [_FIND_MODULES, "module purge", f"module load {shlex.join(options.modules)}"]
    return [*lines, *options.environment.enter(), 'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"']


def _network(options: JobOptions) -> list[str]:
    chosen = options.network.variables(gpus=options.gpus_per_node > 0)
    lines = [f'export {name}="{value}"' for name, value in chosen.items()]
    return lines or ["# Network: left to the libraries' own search; --interface and --adapters name one."]


def _launch(options: JobOptions) -> str:
    gpus = options.gpus_per_node > 0
    exported = ["OMP_NUM_THREADS", *options.network.variables(gpus)]
    lines = options.launcher.words(options.environment, options.ranks, gpus, exported)
    if wrap := options.environment.wrap(gpus):
        lines.append(wrap)
    program, arguments = _split(options.command)
    lines += [[quote(word) for word in words] for words in (program, *arguments)]
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


def quote(word: str) -> str:
    """Return ``word`` as the shell must read it, with ``%j`` replaced by the number of the job."""
    parts = [shlex.quote(part) if part else "" for part in word.split("%j")]
    return '"$SLURM_JOB_ID"'.join(parts) or "''"
