"""What the tests of emulated kernels share; nothing is imported for the others, some of which run without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from alq_hvd.codec.cuda_codec import CudaCodec
    from tests.support.emulated_device import EmulatedDevice


@pytest.fixture
def fresh_memory_is_filled() -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN and 255, so that a byte nobody writes is seen."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device() -> EmulatedDevice:
    from tests.support.emulated_device import EmulatedDevice

    return EmulatedDevice()


@pytest.fixture
def codec(device: EmulatedDevice) -> CudaCodec:
    from alq_hvd.codec.cuda_codec import CudaCodec

    return CudaCodec(device)
