"""Skip every test of this folder, saying why, on machines without a GPU."""

from __future__ import annotations

import pytest

from alq_hvd import backends

TRAINING = "test_cuda_training.py"
"""Trains through the shell for Horovod, over ranks that are threads; its base class is Horovod's own."""
collect_ignore = [] if backends.available("horovod") else [TRAINING]


def missing() -> str:
    for package in ("torch", "cupy"):
        if not backends.available(package):
            return f"needs {package}: see the extras cuda12 and cuda13"
    if not backends.torch().cuda.is_available():
        return "needs a CUDA device that PyTorch can use"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
