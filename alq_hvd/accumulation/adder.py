"""Which narrow accumulator to emulate."""

from __future__ import annotations

from dataclasses import dataclass

from alq_hvd.accumulation.rounding import FULL, Mode, require_rounding
from alq_hvd.quantiser.config import require_int


@dataclass(frozen=True, slots=True)
class Adder:
    """Describe a register that adds terms one after another, each sum rounded before the next term comes.

    Its exponent has the range of float32. A sum is formed in float32 first: for two numbers of at most 10 bits that is
    the exact sum rounded once.

    Attributes:
        mantissa: fractional bits of the register, 1 to 23; 23 is float32 itself.
        mode: ``"nearest"``, ties to even, or ``"truncate"``, towards zero.
        chunk: terms of an inner sum, whose results go into an outer register of the same kind; ``None`` for one sum.
        term: bits to which each term is rounded to nearest first, 1 to 23; ``None`` leaves them as they are.

    Raises:
        ConfigurationError: naming the attribute, its valid values and the value received.
    """

    mantissa: int = FULL
    mode: Mode = "nearest"
    chunk: int | None = None
    term: int | None = None

    def __post_init__(self) -> None:
        require_rounding(self.mantissa, self.mode)
        if self.chunk is not None:
            require_int("chunk", self.chunk, 1, 2**62)
        if self.term is not None:
            require_int("term", self.term, 1, FULL)

    @property
    def is_float32(self) -> bool:
        """Return whether it is what torch and NumPy have anyway, but for the order of the terms."""
        return self.mantissa == FULL and self.term is None


FLOAT32 = Adder()
