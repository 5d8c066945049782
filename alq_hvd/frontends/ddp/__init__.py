"""Packed gradients under PyTorch's own ``DistributedDataParallel``: a state and a communication hook.

``model.register_comm_hook(alq_hvd.ddp.CompressionState(method="alq", bits=4), alq_hvd.ddp.hook)``, and the same two
objects for Lightning's ``DDPStrategy(ddp_comm_state=..., ddp_comm_hook=...)``. Neither Horovod nor MPI is needed.
"""

from __future__ import annotations

from alq_hvd.frontends.ddp.state import CompressionState, hook

__all__ = ["CompressionState", "hook"]
