"""Which weights of a model are quantised: those of linear and convolutional layers, each once, less what is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError

Module: TypeAlias = Any
"""A ``torch.nn.Module``; torch is imported in one place only."""
torch = backends.torch()

KINDS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
FIRST, LAST = "first", "last"


@dataclass(frozen=True, slots=True)
class Target:
    """Name one weight and the modules that hold it: several where weights are tied.

    Attributes:
        name: of the first module that holds it.
        modules: each has it as ``weight``.
    """

    name: str
    modules: tuple[Module, ...]


def find_targets(model: Module, skip: Sequence[str]) -> list[Target]:
    """Return the weights to quantise, in the order in which the model defines them.

    Biases, norms and embeddings stay as they are. A tied weight is one target, and skipped when any of its modules is.

    Args:
        model: to look through.
        skip: ``"first"`` and ``"last"`` of these layers, names of modules, or patterns of names such as ``"head.*"``.

    Raises:
        ConfigurationError: when ``skip`` names what is not there, nothing is left, or a weight is parametrised already.
    """
    if isinstance(skip, str):
        raise ConfigurationError(f"skip: expected a list of names, got the text {skip!r}: write ({skip!r},)")
    kinds = tuple(getattr(torch.nn, kind) for kind in KINDS)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not layers:
        raise ConfigurationError(
            f"expected a model with layers of {', '.join(KINDS)}, got none in {type(model).__name__}"
        )
    skipped = _skipped(list(layers), skip)
    by_weight: dict[int, list[str]] = {}
    for name, module in layers.items():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            if name in skipped:
                continue
            raise ConfigurationError(
                f"{name}: its weight is parametrised already: remove that first, or skip the layer"
            )
        by_weight.setdefault(id(module.weight), []).append(name)
    targets = [
        Target(names[0], tuple(layers[name] for name in names))
        for names in by_weight.values()
        if not skipped.intersection(names)
    ]
    if not targets:
        raise ConfigurationError(
            f"skip: expected to leave at least one of {len(layers)} layers, got {', '.join(skip)} which leaves none"
        )
    return targets


def _skipped(names: Sequence[str], skip: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in skip:
        if pattern in (FIRST, LAST):
            found.add(names[0 if pattern == FIRST else -1])
            continue
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigurationError(
                f"skip: expected 'first', 'last' or names of layers ({', '.join(names)}), got {pattern!r}"
            )
        found.update(matching)
    return found
