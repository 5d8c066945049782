"""How the benchmark of exchanges hands gradients over: as Horovod's optimizer calls, or in DDP's backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

import alq_hvd

Named = Sequence[tuple[str, torch.nn.Parameter]]


class Reducer(Protocol):
    """Average the same gradients again and again, in one way."""

    compression: Any

    def prepare(self) -> None:
        """Bring the gradients again: the last reduction may have overwritten them."""
        ...

    def reduce(self) -> list[torch.Tensor]:
        """Return the means."""
        ...


class FrontEnd(Protocol):
    """Reach the other ranks."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def gather_nothing(self) -> None:
        """Run a collective that carries next to nothing."""
        ...

    def reducer(
        self, name: str, options: dict[str, Any] | None, named: Named, gradients: Sequence[torch.Tensor]
    ) -> Reducer:
        """Return what averages ``gradients``, those of the parameters ``named``.

        Args:
            name: of the way, which no other way has.
            options: of the compression, ``method`` among them; ``None`` for the host's own in float32 or, where the
                name is ``"fp16"``, float16.
            named: parameters.
            gradients: of this rank.
        """
        ...


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as the front ends take them, out of JSON, which knows no tuples."""
    return {**options, "bits": tuple(options["bits"]) if isinstance(options["bits"], list) else options["bits"]}


class HorovodReducer:
    """Average gradients in the order in which ``hvd.DistributedOptimizer`` calls."""

    def __init__(self, name: str, options: dict[str, Any] | None, named: Named, gradients: Any) -> None:
        import horovod.torch as hvd

        self._hvd, self._name, self._named, self._gradients = hvd, name, named, gradients
        if options is None:
            self.compression = hvd.Compression.fp16 if name == "fp16" else hvd.Compression.none
        else:
            settings = settings_of(options)
            method = getattr(alq_hvd.Compression, settings.pop("method"))
            self.compression = method(named_parameters=named, name=name, **settings)

    def prepare(self) -> None:
        """Bring new tensors: Horovod overwrites."""
        for (_, parameter), gradient in zip(self._named, self._gradients, strict=True):
            parameter.grad = gradient.clone()

    def reduce(self) -> list[torch.Tensor]:
        """Return the means."""
        hvd, started = self._hvd, []
        for name, parameter in self._named:
            compressed, context = self.compression.compress(parameter.grad)
            started.append((hvd.allreduce_async_(compressed, name=f"{self._name}.{name}", op=hvd.Average), context))
        return [self.compression.decompress(hvd.synchronize(handle), context) for handle, context in started]


class HorovodFrontEnd:
    """Reach the ranks of a Horovod job; see ``FrontEnd``."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        hvd.init()
        self._hvd, self.rank, self.size = hvd, hvd.rank(), hvd.size()

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._hvd.barrier()

    def gather_nothing(self) -> None:
        """Gather eight bytes."""
        self._hvd.allgather(torch.zeros(8, dtype=torch.uint8), name="small")

    def reducer(self, name: str, options: dict[str, Any] | None, named: Named, gradients: Any) -> HorovodReducer:
        """Return what calls the compression as Horovod's optimizer does."""
        return HorovodReducer(name, options, named, gradients)


class _Given(torch.nn.Module):
    """Have the given gradients, at the cost of one product and one sum an element."""

    def __init__(self, named: Named, gradients: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(parameter for _, parameter in named)
        self.given = list(gradients)

    def forward(self) -> torch.Tensor:
        return torch.stack([(weight * own).sum() for weight, own in zip(self.weights, self.given, strict=True)]).sum()


class DdpReducer:
    """Average gradients in the backward pass of a model under DDP, whose forward pass has been done before."""

    def __init__(self, name: str, options: dict[str, Any] | None, named: Named, gradients: Any) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
        from torch.nn.parallel import DistributedDataParallel

        self._model, self._named = DistributedDataParallel(_Given(named, gradients)), named
        self.compression: Any = None
        if options is not None:
            self.compression = alq_hvd.ddp.CompressionState(name=name, **settings_of(options))
            self._model.register_comm_hook(self.compression, alq_hvd.ddp.hook)
        elif name == "fp16":
            self._model.register_comm_hook(None, default_hooks.fp16_compress_hook)

    def prepare(self) -> None:
        """Run the forward pass."""
        self._model.zero_grad()
        self._loss = self._model()

    def reduce(self) -> list[torch.Tensor]:
        """Run the backward pass, and return the means."""
        self._loss.backward()
        return [parameter.grad for _, parameter in self._named if parameter.grad is not None]


class DdpFrontEnd:
    """Reach the ranks of torch.distributed over Gloo; see ``FrontEnd``."""

    def __init__(self) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        self._dist, self.rank, self.size = dist, dist.get_rank(), dist.get_world_size()

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._dist.barrier()

    def gather_nothing(self) -> None:
        """Gather eight bytes."""
        nothing = torch.zeros(8, dtype=torch.uint8)
        self._dist.all_gather([torch.empty_like(nothing) for _ in range(self.size)], nothing)

    def reducer(self, name: str, options: dict[str, Any] | None, named: Named, gradients: Any) -> DdpReducer:
        """Return what runs a backward pass."""
        return DdpReducer(name, options, named, gradients)


FRONT_ENDS = {"horovod": HorovodFrontEnd, "ddp": DdpFrontEnd}
