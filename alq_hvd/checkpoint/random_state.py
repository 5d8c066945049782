"""The global random generators of this process, from which a user's program may draw: captured and put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from alq_hvd import backends


def capture() -> dict[str, Any]:
    """Return the state of the generators of Python, NumPy and torch (CPU, and every CUDA device in use)."""
    torch = backends.torch()
    legacy: Any = np.random.get_state(legacy=False)
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": random.getstate(),
        "numpy": {**legacy, "state": {**legacy["state"], "key": legacy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def put_back(state: dict[str, Any]) -> None:
    """Continue every generator where ``capture`` saw it."""
    torch = backends.torch()
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
