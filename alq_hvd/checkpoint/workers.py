"""Processes beside a rank: a guard's handlers are not theirs, and a signal meant for the ranks does not end them.

Slurm signals every process of a job step. A worker that loads data must outlive that, or the rank dies of its death
before the checkpoint; and ``Process.terminate()`` must end a worker, whether there is a guard or not. Both hold when a
worker takes a signal only from its parent. Who sent a signal is known to a C handler alone, ``shield.cpp``.

How a process learns of it, by how it was started:

* by fork: a hook of ``os.fork`` in the child;
* by spawn or by a fork server: such a process begins with the signals blocked, and unblocks them when its
  ``multiprocessing.Process``, which carries a ``_Descent``, is unpickled there;
* a worker of torch's DataLoader sets a handler of its own for SIGTERM, and is shielded again after that.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from typing import Any

from alq_hvd import backends
from alq_hvd.errors import BackendUnavailable

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
"""What Slurm sends: ``--signal=USR1@SECONDS`` before the time limit; TERM on scancel and preemption."""

_logger = logging.getLogger(__name__)
_DESCENT = "alq_hvd.descent"
_NATIVE = "alq_hvd.checkpoint._shield"
_TORCH_WORKER, _TORCH_HANDLERS = "torch.utils.data._utils.worker", "torch.utils.data._utils.signal_handling"


class _Descent:
    """Say which signals are not meant for a process that a rank started; unpickling it shields that process.

    Attributes:
        signals: the rank's.
        parent: the process that may send them, beside the one that forked this one: with a fork server these differ.
    """

    def __init__(self, signals: Sequence[signal.Signals], parent: int) -> None:
        self.signals = tuple(signals)
        self.parent = parent

    def __reduce__(self) -> tuple[Callable[..., _Descent], tuple[Sequence[signal.Signals], int]]:
        return _arrive, (self.signals, os.getpid())

    def shield(self) -> None:
        """Shield this process; signals it ignores, or has a handler in Python for, stay as they are."""
        standard = [int(number) for number in self.signals if signal.getsignal(number) in (signal.SIG_DFL, None)]
        backends.require(_NATIVE).shield(standard, self.parent)


class _Hooks:
    """Hold what this process has hooked into ``os.fork``, ``multiprocessing`` and torch."""

    def __init__(self) -> None:
        self.replaced: list[Mapping[signal.Signals, Any]] = []  # handlers, by guards in force, the outermost first
        self.signals: tuple[signal.Signals, ...] = ()  # from which children are shielded
        self.lasting = False  # shield children without a guard, too
        self.descent: _Descent | None = None  # of this process itself
        self.undo: list[Callable[[], None]] = []
        self.torch_loop: Callable[..., None] | None = None
        self.registered = False
        self.of_thread = threading.local()  # its mask, while it forks


_hooks = _Hooks()


def shield_workers(signals: Sequence[signal.Signals] = SIGNALS) -> None:
    """Shield every process that this one starts from now on; a ``PreemptionGuard`` does it for those started inside.

    Call it at the start of a program that starts its workers before its guard. A shielded process takes ``signals``
    from its parent alone, as long as it lives; SIGKILL still ends it.

    Raises:
        BackendUnavailable: when the compiled handler is missing.
    """
    backends.require(_NATIVE)
    _hooks.lasting = True
    _begin(signals)


def guard_begins(replaced: Mapping[signal.Signals, Any]) -> None:
    """Note the handlers that a guard has replaced in this rank; what is started from now on knows of it."""
    if replaced:
        _hooks.replaced.append(replaced)
        _warn_of_unshielded(tuple(replaced))
        _begin(tuple(replaced))


def guard_ends(replaced: Mapping[signal.Signals, Any]) -> None:
    """Forget a guard; with the last one all hooks go."""
    _hooks.replaced = [each for each in _hooks.replaced if each is not replaced]
    if not _hooks.replaced and not _hooks.lasting:
        _hooks.signals = ()
        while _hooks.undo:
            _hooks.undo.pop()()


def _begin(signals: Sequence[signal.Signals]) -> None:
    if not _hooks.registered:  # there is no way to take it back
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
        _hooks.registered = True
    try:
        backends.require(_NATIVE)
    except BackendUnavailable as error:
        _logger.warning("a signal to the whole job kills the workers that load data: %s", error)
        return
    _hooks.signals = tuple(dict.fromkeys([*_hooks.signals, *signals]))
    config: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    config[_DESCENT] = _Descent(_hooks.signals, os.getpid())
    if not _hooks.undo:
        _hooks.undo.append(lambda: config.pop(_DESCENT, None))
        _hook_spawning()
    if _hooks.torch_loop is None:
        _hook_data_loader()


def _hook_spawning() -> None:
    spawn = util.spawnv_passfds

    def spawn_blocked(*arguments: Any) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _hooks.signals)
        try:
            return spawn(*arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    util.spawnv_passfds = spawn_blocked  # type: ignore[assignment]
    _hooks.undo.append(lambda: setattr(util, "spawnv_passfds", spawn))


def _hook_data_loader() -> None:
    if "torch.utils.data" not in sys.modules:
        return
    handlers, worker = backends.require(_TORCH_HANDLERS), backends.require(_TORCH_WORKER)
    if not (hasattr(handlers, "_set_worker_signal_handlers") and hasattr(worker, "_worker_loop")):
        _logger.warning("this PyTorch starts its DataLoader's workers in a way that is unknown here: SIGTERM to the "
                        "whole job ends them, and the run with them")  # fmt: skip
        return
    loop = _hooks.torch_loop = worker._worker_loop
    worker._worker_loop = worker_loop

    def undo() -> None:
        worker._worker_loop, _hooks.torch_loop = loop, None

    _hooks.undo.append(undo)


def worker_loop(*arguments: Any) -> None:
    """Run the loop of a DataLoader's worker, shielded again when it has set its own handlers."""
    handlers = backends.require(_TORCH_HANDLERS)
    set_own = handlers._set_worker_signal_handlers

    def set_own_and_shield() -> None:
        set_own()
        if _hooks.descent is not None:
            _hooks.descent.shield()

    handlers._set_worker_signal_handlers = set_own_and_shield
    loop = _hooks.torch_loop or backends.require(_TORCH_WORKER)._worker_loop
    loop(*arguments)


def _arrive(signals: Sequence[signal.Signals], parent: int) -> _Descent:
    """Shield a process that began with ``signals`` blocked."""
    _hooks.descent = _Descent(signals, parent)
    _hooks.descent.shield()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return _hooks.descent


def _before_fork() -> None:
    """Let no signal reach the child while the handlers of the rank are still in place there."""
    numbers = {*_hooks.signals, *(number for replaced in _hooks.replaced for number in replaced)}
    if numbers:
        _hooks.of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _after_in_parent() -> None:
    mask = getattr(_hooks.of_thread, "mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _hooks.of_thread.mask = None


def _after_in_child() -> None:
    """Put back what was before the guards; only then shield the child."""
    while _hooks.replaced:  # the innermost first
        for number, handler in _hooks.replaced.pop().items():
            signal.signal(number, handler)
    signals = _hooks.signals or (_hooks.descent.signals if _hooks.descent else ())
    if signals:
        _hooks.descent = _Descent(signals, os.getppid())
        _hooks.descent.shield()
    _after_in_parent()


def _warn_of_unshielded(signals: Sequence[signal.Signals]) -> None:
    """Name the processes of ``multiprocessing`` that are older than the guard and that a signal to all would end."""
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pids = [child.pid for child in multiprocessing.active_children()] + [getattr(server, "_forkserver_pid", None)]
    exposed = [pid for pid in pids if pid is not None and not _survives(pid, signals)]
    if exposed:
        _logger.warning("processes %s were started before the guard: a signal to the whole job ends them, and the run "
                        "with them; start them inside it, or call alq_hvd.checkpoint.shield_workers() before",
                        ", ".join(map(str, exposed)))  # fmt: skip


def _survives(pid: int, signals: Sequence[signal.Signals]) -> bool:
    """Return whether a process handles, ignores or blocks ``signals``, or is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
    return all(any(mask >> (number - 1) & 1 for mask in masks) for number in signals)
