"""A process that ends with an error ends in bounded time, though libraries wait at exit for ranks that do not answer.

Horovod's shutdown waits, under MPI, for all ranks; so does a process group of torch for what it still has under way, up
to its own timeout, half an hour with Gloo. Until the process has ended, no launcher ends the others.
"""

from __future__ import annotations

import atexit
import faulthandler
import signal
import sys

GRACE = 30.0
"""Seconds that libraries get to end after an uncaught error."""
_LATER = 1.0
"""Seconds by which the way without a word comes after the one that says where the process was."""
_STDERR = 2


def in_time() -> None:
    """See to it; call it after the libraries have registered what they do at exit, which then comes later."""
    atexit.unregister(_limit)
    atexit.register(_limit)


def _limit() -> None:
    """End the process after a while, with status 1 and a line that says where it was, or else with a signal.

    The interpreter's end takes faulthandler's limit away; the kernel's alarm stays.
    """
    if hasattr(sys, "last_value"):  # Python has shown an error that ends the program
        faulthandler.dump_traceback_later(GRACE, exit=True, file=_STDERR)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, GRACE + _LATER)
