"""How fast codecs are: of a CPU core as measured, of GPUs as predicted."""

from __future__ import annotations

from alq_hvd.planning.cost import CodecSpeed

_COPY = {"h100": 3.0e12, "h200": 4.3e12}
"""Bytes a second that a copy moves in the GPU's memory; it moves eight for each coordinate in float32."""
_SHARE = {"h100": (0.90, 0.66), "h200": (0.72, 0.46)}
"""Of a copy's speed that a kernel is predicted to reach from its instructions, without and with rotation.

See ``docs/explanation/codecs.md``; nothing of it has been measured.
"""
_RECORDS = 8
"""Records that one kernel decodes and adds at that speed."""
CPU = "cpu"
MEASURED = "measured"
NAMES = (CPU, *_COPY, MEASURED)


def named_speed(name: str, rotates: bool) -> CodecSpeed:
    """Return the speed of a codec.

    Args:
        name: ``"cpu"``, one core of a server; ``"h100"`` or ``"h200"``, predicted.
        rotates: buckets are rotated.
    """
    if name == CPU:
        return CodecSpeed(1e9, 1e9)
    coordinates = _SHARE[name][rotates] * _COPY[name] / 8
    return CodecSpeed(coordinates, _RECORDS * coordinates)
