"""Quantised weights for data-parallel training: loss-aware schemes, baselines, learned gradients through the rounding.

``quantize_weights(model, "laq", bits=3, optimizer=optimizer)``; see docs/guides/quantised-weights.md. Names are
imported when they are first used, because most of them need torch and the theory does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alq_hvd.weights.meta_nets import MetaGradient
    from alq_hvd.weights.model import QuantizedWeights, quantize_weights
    from alq_hvd.weights.optimizer import QuantizedOptimizer
    from alq_hvd.weights.parametrization import dequantized_state_dict

__all__ = ["MetaGradient", "QuantizedOptimizer", "QuantizedWeights", "dequantized_state_dict", "quantize_weights"]

_LAZY = {
    "MetaGradient": "alq_hvd.weights.meta_nets",
    "QuantizedOptimizer": "alq_hvd.weights.optimizer",
    "QuantizedWeights": "alq_hvd.weights.model",
    "dequantized_state_dict": "alq_hvd.weights.parametrization",
    "quantize_weights": "alq_hvd.weights.model",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'alq_hvd.weights' has no attribute {name!r}")
