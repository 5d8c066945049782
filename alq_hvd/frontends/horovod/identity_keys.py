"""Recognise a gradient by its parameter."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alq_hvd import backends
from alq_hvd.engine.layout import Gradient, gradients_of
from alq_hvd.errors import ConfigurationError
from alq_hvd.frontends.horovod.keys import PlaceOf, on_host


class IdentityKeys:
    """Recognise a gradient because it *is* ``parameter.grad``: hooks may fire in any order on any rank.

    The dense form of a sparse gradient (``sparse_as_dense=True``) is a tensor of Horovod's own making; it is recognised
    by the parameter whose gradient has just been made, or by its values.

    Args:
        named_parameters: pairs of name and torch parameter, in model order; one that comes again, because weights are
            tied, counts once.
        min_elements: smaller gradients are left to Horovod.
        place_of: tells where a tensor is to be encoded; on the host without it. It is asked when gradients are first
            described, by when the model has been moved to where it is trained.

    Raises:
        ConfigurationError: ``named_parameters`` are no pairs, or two parameters share a name.
    """

    overwrites = True

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Any]],
        min_elements: int,
        place_of: PlaceOf = on_host,
    ) -> None:
        self._min_elements = min_elements
        self._place_of = place_of
        self._all = [
            (name, parameter)
            for name, parameter in _distinct(named_parameters)
            if parameter.requires_grad and parameter.is_floating_point() and parameter.numel() >= min_elements
        ]
        self._newest = -1  # index in _all of the parameter whose gradient was made last
        self._grads: dict[int, int] = {}  # id of a gradient -> its index
        self._seen: set[int] = set()  # in this step
        _watch(self, [parameter for _, parameter in self._all])
        self.reset()

    def _keep(self, kept: list[int]) -> None:
        self._kept = [self._all[index] for index in kept]
        self._place_among_kept = {index: place for place, index in enumerate(kept)}
        self._described: tuple[Gradient, ...] | None = None
        # Hooks fire in much the same order every step: after gradient i, try the one that followed it last time.
        self._follower = [*range(1, len(kept)), 0]
        self._last = len(kept) - 1
        self._reduced: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.end_step()

    def note(self, index: int) -> None:
        """Learn that the gradient of parameter ``index`` has just been made."""
        self._newest = index

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """Return the gradients to compress, described when they are first asked for."""
        if self._described is None:
            self._described = gradients_of(self._kept, self._place_of)
        return self._described

    def locate(self, tensor: Any) -> Gradient | None:
        """Return the gradient of the parameter whose ``grad`` is ``tensor``."""
        if not self._kept or tensor.numel() < self._min_elements:
            return None
        index = self._find(tensor)
        if index is None:
            return None
        self._follower[self._last] = self._last = index
        self._seen.add(index)
        return self.gradients[index]

    def _find(self, tensor: Any) -> int | None:
        newest = self._place_among_kept.get(self._newest, -1)
        for guess in (newest, self._follower[self._last]):
            if guess >= 0 and self._kept[guess][1].grad is tensor:
                return guess
        index = self._known(tensor)
        if index is None:  # made since the last look
            self._grads = {id(parameter.grad): index for index, (_, parameter) in enumerate(self._kept)}
            index = self._known(tensor)
        return self._find_dense_form(tensor, newest) if index is None else index

    def _known(self, tensor: Any) -> int | None:
        index = self._grads.get(id(tensor))
        return index if index is not None and self._kept[index][1].grad is tensor else None

    def _find_dense_form(self, tensor: Any, newest: int) -> int | None:
        alike = [
            index
            for index, (_, parameter) in enumerate(self._kept)
            if parameter.shape == tensor.shape and index not in self._seen and _is_sparse(parameter.grad)
        ]
        if newest in alike or len(alike) == 1:
            return newest if newest in alike else alike[0]
        torch = backends.torch()
        return next((index for index in alike if torch.equal(self._kept[index][1].grad.to_dense(), tensor)), None)

    def is_untouched(self, index: int, tensor: Any) -> bool:
        """Return whether ``tensor`` is the gradient that was reduced, of the version that Horovod made of it."""
        if index not in self._reduced:
            return False
        known, version = self._reduced[index]
        reduced: Any = known()
        return bool(reduced is tensor and reduced._version <= version)

    def delivered(self, index: int, tensor: Any) -> None:
        """Note the gradient and its version; Horovod's ``grad.set_`` makes the next one."""
        gradient = self._kept[index][1].grad
        if gradient is not None and not _is_sparse(gradient):
            self._reduced[index] = weakref.ref(gradient), gradient._version + 1

    def end_of_calls(self) -> tuple[Gradient, ...]:
        """Return the gradients to compress."""
        return self.gradients

    def sparse(self, indices: Iterable[int]) -> list[int]:
        """Return those whose parameters have a sparse gradient."""
        return [index for index in indices if _is_sparse(self._kept[index][1].grad)]

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the names of all parameters, if a tensor of the shape of each was handed over, and none was theirs."""
        others = list(shapes)
        for _, parameter in self._kept:
            shape = tuple(parameter.shape)
            if shape not in others or parameter.grad is not None:
                return []
            others.remove(shape)
        return [name for name, _ in self._kept]

    def drop(self, indices: Iterable[int]) -> None:
        """Compress the gradients of these parameters no more."""
        gone = set(indices)
        self._keep([index for index, place in self._place_among_kept.items() if place not in gone])

    def end_step(self) -> None:
        """Forget which gradients were seen."""
        self._seen, self._grads = set(), {}

    def reset(self) -> None:
        """Expect every parameter's gradient to be dense again."""
        self._keep(list(range(len(self._all))))


def _distinct(named_parameters: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return the pairs, without parameters that came before, or raise ``ConfigurationError``."""
    names: dict[str, int] = {}
    seen: set[int] = set()
    kept = []
    for pair in named_parameters:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConfigurationError(
                f"named_parameters: expected pairs of name and parameter, got {type(pair).__name__}: pass "
                "model.named_parameters()"
            )
        name, parameter = pair
        if names.setdefault(name, id(parameter)) != id(parameter):
            raise ConfigurationError(f"named_parameters: expected unique names, got {name} twice")
        if id(parameter) not in seen:
            seen.add(id(parameter))
            kept.append((name, parameter))
    return kept


def _watch(keys: IdentityKeys, parameters: Sequence[Any]) -> None:
    """Tell ``keys`` of every gradient as it is made, for as long as they live."""
    reference = weakref.ref(keys)

    def hook(index: int) -> Callable[[Any], None]:
        def note(_: Any) -> None:
            alive = reference()
            if alive is not None:
                alive.note(index)

        return note

    handles = [
        parameter.register_post_accumulate_grad_hook(hook(index))
        for index, parameter in enumerate(parameters)
        if parameter.is_leaf
    ]
    weakref.finalize(keys, lambda: [handle.remove() for handle in handles]).atexit = False


def _is_sparse(gradient: Any) -> bool:
    return gradient is not None and gradient.layout is not backends.torch().strided
