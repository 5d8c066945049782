"""Which gradient a tensor is: Horovod hands it over without a name."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from alq_hvd import backends
from alq_hvd.engine.layout import FusionLayout, Slot
from alq_hvd.errors import CallOrderError, ConfigurationError

PlaceOf = Callable[[Any], Any]
"""Return where a tensor is to be encoded: a device, or ``None`` for the host."""


def on_host(tensor: Any) -> None:
    """Encode every tensor on the host."""


class Keys(Protocol):
    """Tell which gradient a tensor is."""

    overwrites: bool
    """A gradient is overwritten with its sum, which saves memory, and not left as it was."""

    @property
    def layout(self) -> FusionLayout | None:
        """Return the layout, or ``None`` while the first step is still being learnt."""
        ...

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot of ``tensor``, or ``None`` when it is not to be compressed."""
        ...

    def is_untouched(self, slot: Slot, tensor: Any) -> bool:
        """Return whether ``tensor`` is what the last step has reduced for ``slot``, and nobody has changed it."""
        ...

    def delivered(self, slot: Slot, tensor: Any) -> None:
        """Learn that ``tensor`` is the reduced gradient of ``slot``."""
        ...

    def end_of_calls(self) -> FusionLayout:
        """Learn that every gradient of the step has been seen, and return the layout."""
        ...

    def sparse(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return those of ``slots`` whose gradients turned out to be sparse: Horovod reduces them without asking."""
        ...

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the names of the expected parameters when tensors of these ``shapes``, of others, came in their place.

        That is so when the optimizer trains other objects than those that were named here.
        """
        ...

    def drop(self, slots: Sequence[Slot]) -> None:
        """Make a new layout without ``slots``."""
        ...

    def end_step(self) -> None:
        """Get ready for the next step."""
        ...

    def reset(self) -> None:
        """Forget what was learnt from gradients: ranks that are new in the world know nothing of it."""
        ...


class IdentityKeys:
    """Recognise a gradient because it *is* ``parameter.grad``: hooks may fire in any order on any rank.

    The dense form of a sparse gradient (``sparse_as_dense=True``) is a tensor of Horovod's own making; it is recognised
    by the parameter whose gradient has just been made, or by its values.

    Args:
        named_parameters: pairs of name and torch parameter, in model order; one that comes again, because weights are
            tied, counts once.
        min_elements: smaller gradients are left to Horovod.
        fusion_elements: size of a fusion group.
        place_of: tells where a tensor is to be encoded; on the host without it. It is asked when the layout is first
            needed, by when the model has been moved to where it is trained.

    Raises:
        ConfigurationError: ``named_parameters`` are no pairs, or two parameters share a name.
    """

    overwrites = True

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, Any]],
        min_elements: int,
        fusion_elements: int,
        place_of: PlaceOf = on_host,
    ) -> None:
        self._min_elements = min_elements
        self._fusion_elements = fusion_elements
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

    def _lay_out(self, kept: list[int]) -> None:
        self._kept = [self._all[index] for index in kept]
        self._place_among_kept = {index: place for place, index in enumerate(kept)}
        self._layout: FusionLayout | None = None
        # Hooks fire in much the same order every step: after gradient i, try the one that followed it last time.
        self._follower = [*range(1, len(kept)), 0]
        self._last = len(kept) - 1
        self._reduced: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.end_step()

    def note(self, index: int) -> None:
        """Learn that the gradient of parameter ``index`` has just been made."""
        self._newest = index

    @property
    def layout(self) -> FusionLayout:
        """Return the layout, made when it is first asked for."""
        if self._layout is None:
            sizes = [(name, parameter.numel()) for name, parameter in self._kept]
            places = [self._place_of(parameter) for _, parameter in self._kept]
            shapes = [tuple(parameter.shape) for _, parameter in self._kept]
            self._layout = FusionLayout.build(sizes, self._fusion_elements, places, shapes)
        return self._layout

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot of the parameter whose gradient ``tensor`` is."""
        if not self._kept or tensor.numel() < self._min_elements:
            return None
        index = self._find(tensor)
        if index is None:
            return None
        self._follower[self._last] = self._last = index
        self._seen.add(index)
        return self.layout.slots[index]

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

    def is_untouched(self, slot: Slot, tensor: Any) -> bool:
        """Return whether ``tensor`` is the gradient that was reduced, of the version that Horovod made of it."""
        if slot.index not in self._reduced:
            return False
        known, version = self._reduced[slot.index]
        reduced: Any = known()
        return bool(reduced is tensor and reduced._version <= version)

    def delivered(self, slot: Slot, tensor: Any) -> None:
        """Note the gradient and its version; Horovod's ``grad.set_`` makes the next one."""
        gradient = self._kept[slot.index][1].grad
        if gradient is not None and not _is_sparse(gradient):
            self._reduced[slot.index] = weakref.ref(gradient), gradient._version + 1

    def end_of_calls(self) -> FusionLayout:
        """Return the layout."""
        return self.layout

    def sparse(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return the slots whose parameters have a sparse gradient."""
        return [slot for slot in slots if _is_sparse(self._kept[slot.index][1].grad)]

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the names of all parameters, if a tensor of the shape of each was handed over, and none was theirs."""
        others = list(shapes)
        for _, parameter in self._kept:
            shape = tuple(parameter.shape)
            if shape not in others or parameter.grad is not None:
                return []
            others.remove(shape)
        return [name for name, _ in self._kept]

    def drop(self, slots: Sequence[Slot]) -> None:
        """Make a new layout without the parameters of ``slots``."""
        gone = {slot.index for slot in slots}
        self._lay_out([index for index, place in self._place_among_kept.items() if place not in gone])

    def end_step(self) -> None:
        """Forget which gradients were seen."""
        self._seen, self._grads = set(), {}

    def reset(self) -> None:
        """Expect every parameter's gradient to be dense again."""
        self._lay_out(list(range(len(self._all))))


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
    return gradient is not None and str(gradient.layout) != "torch.strided"


class CallOrderKeys:
    """Recognise a gradient by its position in the order of calls, learnt in the first step.

    The order must then be the same at every step and on every rank; the probe finds out when it is not.

    Args:
        min_elements: smaller gradients are left to Horovod.
        fusion_elements: size of a fusion group.
        place_of: tells where a tensor is to be encoded; on the host without it.
    """

    overwrites = False  # it may be any tensor of the program's own, as in hvd.allreduce(x, compression=...)

    def __init__(self, min_elements: int, fusion_elements: int, place_of: PlaceOf = on_host) -> None:
        self._min_elements = min_elements
        self._fusion_elements = fusion_elements
        self._place_of = place_of
        self._layout: FusionLayout | None = None
        self._seen: list[int] = []
        self._places: list[Any] = []

    @property
    def layout(self) -> FusionLayout | None:
        """Return the layout once the first step's calls have been seen."""
        return self._layout

    def locate(self, tensor: Any) -> Slot | None:
        """Return the slot at the current position of the call order."""
        elements = int(tensor.numel())
        if elements < self._min_elements:
            return None
        position = len(self._seen)
        self._seen.append(elements)
        if self._layout is None:
            self._places.append(self._place_of(tensor))
            return Slot(position, f"number {position}", 0, sum(self._seen[:-1]), elements)
        slots = self._layout.slots
        if position >= len(slots) or slots[position].elements != elements:
            expected = f"{slots[position].elements} elements" if position < len(slots) else "no further gradient"
            raise CallOrderError(
                f"gradient number {position} of this step has {elements} elements, expected {expected} as in the first "
                "step. Pass named_parameters=model.named_parameters() to alq_hvd.Compression, then any order is right"
            )
        return slots[position]

    def is_untouched(self, slot: Slot, tensor: Any) -> bool:
        """Return False: a position says nothing of a tensor's past."""
        return False

    def delivered(self, slot: Slot, tensor: Any) -> None:
        """Learn nothing."""

    def end_of_calls(self) -> FusionLayout:
        """Return the layout, made of the calls of the first step."""
        if self._layout is None:
            sizes = [(f"number {position}", size) for position, size in enumerate(self._seen)]
            self._layout = FusionLayout.build(sizes, self._fusion_elements, self._places)
        return self._layout

    def sparse(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return none: a sparse gradient never enters the call order."""
        return []

    def unmet(self, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return none: whatever is called is expected."""
        return []

    def drop(self, slots: Sequence[Slot]) -> None:
        """Change nothing: there is nothing sparse to drop."""

    def end_step(self) -> None:
        """Start the next step at position 0."""
        self._seen = []

    def reset(self) -> None:
        """Learn the order anew, together with ranks that have yet to learn it."""
        self._layout, self._seen, self._places = None, [], []


def keys(
    named_parameters: Iterable[tuple[str, Any]] | None, min_elements: int, fusion_elements: int, place_of: PlaceOf
) -> Keys:
    """Return ``IdentityKeys`` of ``named_parameters``, or ``CallOrderKeys`` without them."""
    if named_parameters is None:
        return CallOrderKeys(min_elements, fusion_elements, place_of)
    return IdentityKeys(list(named_parameters), min_elements, fusion_elements, place_of)
