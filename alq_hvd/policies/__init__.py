"""Level policies: pure float64 functions from statistics and current levels to new levels."""

from alq_hvd.policies.alq import Alq
from alq_hvd.policies.alq_gradient import AlqGradient
from alq_hvd.policies.alq_published import AlqPublished
from alq_hvd.policies.amq import Amq
from alq_hvd.policies.base import LevelUpdate, Policy
from alq_hvd.policies.fixed import Fixed
from alq_hvd.policies.optimal import Optimal

__all__ = ["Alq", "AlqGradient", "AlqPublished", "Amq", "Fixed", "LevelUpdate", "Optimal", "Policy"]
