"""Which codec serves: the fastest there is, unless the user names one."""

from __future__ import annotations

import logging

from alq_hvd import backends
from alq_hvd.codec.base import Codec
from alq_hvd.codec.native import NativeCodec
from alq_hvd.codec.reference import ReferenceCodec

_logger = logging.getLogger(__name__)


def choose_codec(name: str) -> Codec:
    """Return the codec ``name``: ``"reference"``, ``"native"``, or the better of the two for ``"auto"``.

    Raises:
        BackendUnavailable: ``"native"`` was asked for and is not compiled.
    """
    if name == "reference":
        return ReferenceCodec()
    if name == "native" or backends.available("alq_hvd.codec._native"):
        return NativeCodec()
    _logger.warning("the C++ codec is not compiled; NumPy, some seventy times slower, serves. Run `alq-hvd doctor`")
    return ReferenceCodec()
