"""What theory promises: variance bounds, code lengths and convergence, as small functions of the levels."""

from alq_hvd.quantiser.theory.codes import (
    bytes_fixed,
    bytes_ideal,
    code_length_bound,
    entropy_bits,
    nonzeros_bound,
    symbol_probabilities,
)
from alq_hvd.quantiser.theory.convergence import convex_bound, gradient_variance, slow_down, time_average
from alq_hvd.quantiser.theory.variance import (
    amq_bound,
    levels_bound,
    nuqsgd_bound,
    nuqsgd_without_zero,
    qsgd_bound,
    terngrad_bound,
)

__all__ = [
    "amq_bound",
    "bytes_fixed",
    "bytes_ideal",
    "code_length_bound",
    "convex_bound",
    "entropy_bits",
    "gradient_variance",
    "levels_bound",
    "nonzeros_bound",
    "nuqsgd_bound",
    "nuqsgd_without_zero",
    "qsgd_bound",
    "slow_down",
    "symbol_probabilities",
    "terngrad_bound",
    "time_average",
]
