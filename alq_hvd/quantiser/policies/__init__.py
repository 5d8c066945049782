"""Level policies: pure float64 functions from statistics and current levels to new levels."""

from alq_hvd.quantiser.policies.alq import Alq
from alq_hvd.quantiser.policies.alq_gradient import AlqGradient
from alq_hvd.quantiser.policies.amq import Amq
from alq_hvd.quantiser.policies.base import LevelUpdate, Policy
from alq_hvd.quantiser.policies.fixed import Fixed
from alq_hvd.quantiser.policies.optimal import Optimal

__all__ = ["Alq", "AlqGradient", "Amq", "Fixed", "LevelUpdate", "Optimal", "Policy"]
