"""FSDP2: gradients of ``fully_shard`` modules travel as records; public as ``alq_hvd.fsdp``."""

from alq_hvd.frontends.fsdp.compression import ShardedCompression, compress

__all__ = ["ShardedCompression", "compress"]
