"""Put a compressor of ours wherever Horovod's tests would use one of Horovod's: ``pytest -p tests.upstream.plugin``.

``ALQ_HVD_UPSTREAM=METHOD:BITS`` names it, such as ``none`` or ``optimal:8``; ``calls`` behind another colon gives it to
``hvd.allreduce`` and its like too, whose tests compare results digit by digit, so that only an exact one can pass.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

import alq_hvd

_METHOD, _BITS, _CALLS = [*os.environ["ALQ_HVD_UPSTREAM"].split(":"), "", ""][:3]
_LINEAR = (None, hvd.Average, hvd.Sum)
_made: list[Any] = []
_stock = {name: getattr(hvd, name) for name in ("DistributedOptimizer", "allreduce", "grouped_allreduce")}
_torch_state = hvd.elastic.TorchState


def make(**options: Any) -> Any:
    """Return a compressor of the method that is tried; gradients as small as those of the tests are compressed too."""
    bits = {"bits": int(_BITS)} if _BITS else {}
    options = {"min_elements": 0, "break_even": False, "exchange": "two_shot", **options} if _BITS else options
    _made.append(getattr(alq_hvd.Compression, _METHOD)(**bits, timeout=300.0, **options))
    return _made[-1]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much was really compressed: tests that never met a compressor of ours would pass too."""
    steps = sum(each.metrics()["step"] for each in _made)
    elements = sum(each.metrics()["compressed_elements"] for each in _made)
    terminalreporter.write_line(f"alq_hvd: {len(_made)} compressors, {steps} steps, {elements} compressed elements")


def distributed_optimizer(optimizer: Any, named_parameters: Any = None, *arguments: Any, **options: Any) -> Any:
    """Represent ``hvd.DistributedOptimizer``."""
    named = None if named_parameters is None else list(named_parameters)
    if not arguments and options.get("op", hvd.Average) in _LINEAR and "compression" not in options:
        sets = {"process_set": options["process_set"]} if "process_set" in options else {}
        options["compression"] = make(named_parameters=named, **sets)
    return _stock["DistributedOptimizer"](optimizer, named, *arguments, **options)


def with_compression(name: str) -> Callable[..., Any]:
    """Return what stands for a call of Horovod that takes ``compression=``."""
    stock = _stock[name]

    @functools.wraps(stock)
    def call(tensor: Any, *arguments: Any, **options: Any) -> Any:
        if len(arguments) < 3 and options.get("op") in _LINEAR and "compression" not in options:
            options["compression"] = make()
        return stock(tensor, *arguments, **options)

    return call


def torch_state(*arguments: Any, **options: Any) -> Any:
    """Represent ``hvd.elastic.TorchState``, with a compressor of ours in the state."""
    return _torch_state(*arguments, compression=make(), **options)


hvd.DistributedOptimizer = distributed_optimizer
hvd.elastic.TorchState = torch_state
hvd.Compression.fp16 = make()
if _CALLS:
    hvd.allreduce, hvd.grouped_allreduce = with_compression("allreduce"), with_compression("grouped_allreduce")
# Tests try every optimizer of torch that there is. This one came after Horovod, and takes matrices alone.
if hasattr(torch.optim, "Muon"):
    torch.optim.Muon.__module__ = "newer.than.horovod"
