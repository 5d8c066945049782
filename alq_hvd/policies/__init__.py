"""Level policies: pure float64 functions from statistics and current levels to new levels."""

from alq_hvd.policies.alq import Alq
from alq_hvd.policies.base import LevelUpdate, Policy
from alq_hvd.policies.fixed import Fixed

__all__ = ["Alq", "Fixed", "LevelUpdate", "Policy"]
