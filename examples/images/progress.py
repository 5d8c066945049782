"""A progress bar on a terminal; plain lines, now and then, everywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO, Literal

from tqdm import tqdm

Mode = Literal["auto", "bar", "lines", "none"]
MODES: tuple[Mode, ...] = ("auto", "bar", "lines", "none")

LINES_A_RUN = 10


class Progress:
    """Show how far a loop of ``total`` steps is.

    ``auto`` draws a bar where ``stream`` is a terminal and prints about ten lines otherwise (log files, Slurm, and
    behind horovodrun, which hands its ranks a pipe: there ``bar`` asks for the bar all the same).
    """

    def __init__(self, total: int, label: str, mode: Mode = "auto", stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._mode = mode if mode != "auto" else ("bar" if self._stream.isatty() else "lines")
        self._total, self._label, self._done = total, label, 0
        self._start = time.monotonic()
        # Unlike in tqdm's own guess, never 0: some terminals do not tell their size, and a pipe has none.
        width = min(shutil.get_terminal_size((100, 24)).columns - 1, 120)
        self._bar = (
            tqdm(total=total, desc=label, file=self._stream, unit="step", ncols=width, nrows=24)
            if self._mode == "bar"
            else None
        )

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` steps of the total are behind us; ``note`` goes to the end of the line."""
        before, self._done = self._done, done
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - before)
        elif self._mode == "lines" and before * LINES_A_RUN // self._total != done * LINES_A_RUN // self._total:
            elapsed = time.monotonic() - self._start
            line = tqdm.format_meter(
                done, self._total, elapsed, ncols=100, prefix=self._label, ascii=True, unit="step", postfix=note
            )
            # One write a line: mpirun tags what it forwards write by write.
            self._stream.write(line + "\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            tqdm.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the bar as it stands and return to the start of a line."""
        if self._bar is not None:
            self._bar.close()
