"""Checkpoints that survive a cut at any moment, and the signal that asks for one.

``Checkpoint`` holds all that a run needs to go on bit for bit; ``PreemptionGuard`` makes all ranks stop after the same
step; ``shield_workers`` is for programs whose workers are older than their guard; ``CheckpointStore`` is the file
handling alone, for programs that bring their own state.
"""

from alq_hvd.checkpoint.preemption import PREEMPTED_STATUS, PreemptionGuard
from alq_hvd.checkpoint.store import CheckpointStore
from alq_hvd.checkpoint.training import Checkpoint, Restored
from alq_hvd.checkpoint.workers import shield_workers

__all__ = ["PREEMPTED_STATUS", "Checkpoint", "CheckpointStore", "PreemptionGuard", "Restored", "shield_workers"]
