"""Where the time of a training step goes, defined alike for stock hosts and for alq_hvd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from alq_hvd.run_record import PARTS

CODEC_PARTS = ("encode", "decode", "adapt")

Seconds = Mapping[str, float]


class StepClock:
    """Split the wall-clock time of every step on this rank into ``PARTS``.

    * encode, decode, adapt: what the compression says it spent, wherever in the step; 0 for stock hosts, whose
      casts to and from fp16 cannot be told apart from compute and exchange.
    * exchange: time spent inside ``optimizer.synchronize()`` less the codec's work in it. It is the wait that
      *remains*: communication hidden behind the backward pass does not count, waiting for a slower rank does.
      Where the host reduces inside the backward pass: what the compression says it waited; 0 for stock hosts.
    * compute: the rest of the step (data, forward, backward, optimizer).
    """

    def __init__(
        self,
        codec_seconds: Callable[[], Seconds] | None = None,
        steps: int = 0,
        total: Seconds | None = None,
        *,
        reduces_in_backward: bool = False,
    ) -> None:
        """Read the codec's cumulative seconds from ``codec_seconds``, ``None`` where there is no codec.

        A resumed run goes on from the ``steps`` and the ``total`` that it had.
        """
        self._codec_seconds = codec_seconds or (lambda: dict.fromkeys((*CODEC_PARTS, "exchange"), 0.0))
        self._reduces_in_backward = reduces_in_backward
        self._exchange = 0.0
        self.steps = steps
        self.total = dict.fromkeys(PARTS, 0.0) | dict(total or {})
        self.last = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count the enclosed block as one whole step."""
        self._exchange = 0.0
        codec, start = self._codec_seconds(), time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        now = self._codec_seconds()
        if self._reduces_in_backward:
            self._exchange = now["exchange"] - codec["exchange"]
        self.last = {part: now[part] - codec[part] for part in CODEC_PARTS} | {"exchange": self._exchange}
        self.last["compute"] = elapsed - sum(self.last.values())
        self.steps += 1
        for part in PARTS:
            self.total[part] += self.last[part]

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Count the enclosed ``optimizer.synchronize()`` as exchange, less the codec's work in it."""
        codec, start = self._codec_seconds(), time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        now = self._codec_seconds()
        self._exchange += elapsed - sum(now[part] - codec[part] for part in CODEC_PARTS)

    def per_step(self) -> dict[str, float]:
        """Return the mean seconds of each part over all steps so far."""
        return {part: self.total[part] / max(self.steps, 1) for part in PARTS}
