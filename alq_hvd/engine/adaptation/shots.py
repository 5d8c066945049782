"""The levels of all shots from step to step: what is looked at in a step, and what becomes of it at the step's end."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alq_hvd.codec.base import Codec, Values
from alq_hvd.codec.keys import StreamKey
from alq_hvd.communicator.base import Communicator
from alq_hvd.engine.adaptation.shot import AdaptiveShot
from alq_hvd.engine.chosen_exchange import ChosenExchange
from alq_hvd.engine.options import Options
from alq_hvd.errors import AlqError
from alq_hvd.exchange.ledger import Ledger


class AdaptiveShots:
    """Hold every shot that the options allow, and fit and measure the levels of those that the exchange takes.

    Levels are fitted to the gradients of a scheduled step. Where these cannot be used, and for a shot that the
    exchange did not take then, perhaps because the world had one rank, the fit stays due: every step tries, until one
    succeeds.

    All ranks must agree on: the options, the exchange, the levels, which fits are due.

    Args:
        options: shared by all ranks.
        exchange: tells how many shots it takes.
        ledger: counts what looking at gradients costs.
        sampled: the first shot's levels are fitted to what is given in ``sampling``, not to what it quantises.

    Attributes:
        all: the shots, the gradients' own first.
    """

    def __init__(self, options: Options, exchange: ChosenExchange, ledger: Ledger, *, sampled: bool) -> None:
        method = options.resolve()
        self._adapts = method.policy.adapts
        self._schedule = options.parsed_schedule()
        self._options, self._exchange, self._ledger, self._sampled = options, exchange, ledger, sampled
        self.all = tuple(
            AdaptiveShot(index, config, *options.levels(index), options.error_feedback)
            for index, config in enumerate(map(options.quantiser, range(len(options.bits_of_shots))))
        )
        self.forget()

    @property
    def used(self) -> Sequence[AdaptiveShot]:
        """Return the shots that the exchange takes."""
        return self.all[: self._exchange.shots]

    @property
    def fingerprint(self) -> int:
        """Return 16 bits that change with the levels of any shot and their versions."""
        history = b"".join(struct.pack("<II", shot.levels.digest, shot.levels.version) for shot in self.all)
        return zlib.crc32(history) & 0xFFFF

    @property
    def position(self) -> dict[str, Any]:
        """Return what all ranks must share before they exchange anything."""
        levels = [f"version {shot.levels.version}, digest {shot.levels.digest:#010x}" for shot in self.all]
        return {"levels": levels, "fits that are due": [shot.fit_is_due for shot in self.all]}

    def forget(self) -> None:
        """Drop what was gathered and measured in the open step."""
        self._started = False
        for shot in self.all:
            shot.forget()

    def start(self) -> None:
        """Learn that something is quantised in the open step: without that there is nothing to fit levels to."""
        self._started = True

    def samples(self, step: int) -> bool:
        """Return whether the open step must be given samples before it ends."""
        return self._sampled and self._started and self._fits(self.all[0], step)

    @contextmanager
    def sampling(self, rank: int) -> Iterator[None]:
        """Gather samples inside; an exception there refuses the fit on all ranks, which would else wait for this one.

        Raises:
            AlqError: as it is, since a mistake in the program is the same on all ranks.
        """
        try:
            yield
        except AlqError:
            raise
        except Exception as error:  # of the user's code: data that is not there, a file that cannot be read
            self.all[0].fail(error, "sample_gradients", rank)

    def watches(self, step: int, measures: bool) -> bool:
        """Return whether what the open step quantises is looked at, and not only sent.

        New levels are measured at once, or as soon as all gradients are finite.
        """
        return measures or any(self._fits(shot, step) or not shot.is_measured for shot in self.used)

    def observe(self, codec: Codec, step: int, measures: bool, shot: int, values: Values, key: StreamKey) -> None:
        """Look at what a shot quantises."""
        own = self.all[shot]
        fits = self._fits(own, step)
        if fits and not (self._sampled and shot == 0):
            with self._ledger.timed("adapt"):
                own.gather(codec, values)
        if fits or measures or not own.is_measured:
            own.measure(codec, values, key)

    def end_step(self, control: Communicator | None, step: int) -> list[AdaptiveShot]:
        """Fit what is to be fitted, together with all ranks; return the shots that began or ceased to contract."""
        if self._adapts and step in self._schedule:
            for shot in self.all:
                shot.fit_is_due = True
        if self._started:
            assert control is not None
            with self._ledger.timed("adapt"):
                for shot in self.used:
                    if shot.fit_is_due:
                        self._ledger.sent(shot.adapt(control, step, self._options.name))
        self._started = False
        return [shot for shot in self.all if shot.end_step()]

    def warn(self, rank: int, step: int, *, of_loss: bool) -> None:
        """Warn once about levels in use that do harm; see ``AdaptiveShot.warn``."""
        for shot in self.used:
            shot.warn(rank, step, self._options.method_name, of_loss=of_loss)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the levels, variance and adaptations of the shots in use."""
        own = [shot.metrics() for shot in self.used]
        widths = [shot.config.mean_bits for shot in self.used]
        return [own[0], *({"bits": bits, **later} for bits, later in zip(widths[1:], own[1:], strict=True))]

    def _fits(self, shot: AdaptiveShot, step: int) -> bool:
        return self._adapts and (shot.fit_is_due or step in self._schedule)
