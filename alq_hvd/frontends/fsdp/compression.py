"""FSDP2's gradients as records: a reduce-scatter of one shot, and an all-reduce between nodes, in FSDP's own places."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from alq_hvd import backends
from alq_hvd.communicator.base import allgather_bytes
from alq_hvd.communicator.torch_distributed import TorchCommunicator
from alq_hvd.engine.handshake import agree_on_configuration
from alq_hvd.engine.layout import FusionLayout, Gradient
from alq_hvd.engine.options import Options
from alq_hvd.errors import CallOrderError, ConfigurationError, StateError
from alq_hvd.exchange.kinds import REDUCE_SCATTER
from alq_hvd.exchange.ledger import ring_bytes
from alq_hvd.frontends.fsdp.hop import Hop, MeshTransport
from alq_hvd.frontends.fsdp.modules import ShardedModule, sharded_modules
from alq_hvd.frontends.ranks import group_of
from alq_hvd.version import __version__


def compress(
    model: Any,
    *,
    method: str = "optimal",
    bits: Any = None,
    between: Any = None,
    inside: bool | None = None,
    **options: Any,
) -> ShardedCompression:
    """Let the gradients of a model that ``fully_shard`` was applied to travel as records; every rank must call it.

    Call it once, after ``fully_shard`` and before the first backward pass. A backward pass that reduces gradients is a
    step. Gradients keep FSDP's meaning: their mean, or what ``set_gradient_divide_factor`` says.

    Args:
        model: with modules of class ``FSDPModule`` in it.
        method: as in ``alq_hvd.quantiser.methods.NAMES``.
        bits: width of a code; ``None`` for the method's usual one; ``(4, 8)`` for what travels between nodes.
        between: the nodes, where the model is sharded inside each of them over a mesh of one dimension and is alike on
            all: this rank's row of the mesh, ``mesh["replicate"]``, or its process group. Gradients are then averaged
            over the nodes, too, by the ``exchange`` of the options. Parameters must be equal on all nodes at the start.
        inside: quantise the reduce-scatter; ``None``: unless there is ``between``, because inside a node links are
            fast and an exact sum costs no variance.
        options: the other fields of ``Options``, by name. ``error_feedback`` is for what travels between nodes.
            Modules below ``min_elements``, and those whose records would be no shorter, are reduced exactly.

    Raises:
        ConfigurationError: an option is out of range, or the model, or what is between, is not as described.
        ConfigurationMismatch: ranks have different options or models; on every rank.
        BackendUnavailable: this torch has no FSDP2 with a custom reduce-scatter.
        TypeError: for an unknown option.
    """
    if not backends.torch_distributed().is_initialized():
        raise ConfigurationError(
            "expected torch.distributed to be started: call torch.distributed.init_process_group() first, and start "
            "the program with torchrun"
        )
    return ShardedCompression(
        sharded_modules(model),
        Options.of(method, bits=bits, **{"break_even": False, **options}),
        between,
        between is None if inside is None else inside,
    )


class ShardedCompression:
    """Reduce the gradients of sharded modules, and learn levels from them; made by ``compress``.

    Attributes:
        inside: the hop between the ranks that share the parameters.
        between: the hop between nodes that have the same parameters; ``None`` where FSDP knows of all ranks.
    """

    def __init__(self, modules: list[ShardedModule], options: Options, between: Any, inside: bool) -> None:
        _refuse_twice(modules)
        mesh = modules[0].mesh
        shard = TorchCommunicator(mesh.shard_process_group, options.timeout)
        across = None if between is None else TorchCommunicator(group_of(between, "between"), options.timeout)
        everyone, nodes = _everyone(mesh, shard, across)
        _agree(everyone, modules, options, inside, across)
        _refuse_options(options, inside, across)
        node = across.rank if across is not None else int(getattr(mesh, "replicate_mesh_rank", 0))
        within = _one_shot(options) if inside else Options.of("none", name=options.name, timeout=options.timeout)
        direct = options.device_records
        to_shards = MeshTransport(shard, direct, everyone=everyone)
        self.inside = Hop(within, to_shards, node, nodes, REDUCE_SCATTER)
        self.between: Hop | None = None
        if across is not None:
            to_nodes = MeshTransport(across, direct, everyone=everyone)
            self.between = Hop(options, to_nodes, shard.rank, shard.size)
        self._is_open = False
        places = [self.inside.codecs.place(backends.torch().empty(0, device=each.group.device)) for each in modules]
        described = [
            Gradient(index, each.name, each.elements, place=place)
            for index, (each, place) in enumerate(zip(modules, places, strict=True))
        ]
        layout = FusionLayout.build(described, 1)
        for hop in self._hops:
            hop.join(layout)
        for index, each in enumerate(modules):
            self._take_over(index, each)

    @property
    def _hops(self) -> list[Hop]:
        return [self.inside] if self.between is None else [self.inside, self.between]

    def _take_over(self, index: int, each: ShardedModule) -> None:
        each.module.set_force_sum_reduction_for_comms(True)  # FSDP then divides, by the factor that it was given
        each.module.set_custom_reduce_scatter(QuantisedReduceScatter(self, index, each.reduce_scatter))
        if self.between is not None:
            each.module.set_all_reduce_hook(partial(self.reduce_between, index))

    def reduce_scatter(self, index: int, exact: Any, output: Any, tensor: Any, group: Any, op: Any) -> None:
        """Write to ``output`` the sum of this rank's chunk of ``tensor`` over the ranks that share parameters."""
        sums = backends.torch_distributed().ReduceOp.SUM
        if op != sums:
            raise CallOrderError(
                f"rank {self.inside.transport.gradients.rank}: expected FSDP to add gradients up, got {op}: leave "
                "set_force_sum_reduction_for_comms as alq_hvd.fsdp.compress has set it"
            )
        size = self.inside.transport.gradients.size
        pays = self.inside.pays(tensor, size)
        self._in_step()
        if pays:
            self.inside.reduce(index, tensor, output, float(size))
        else:
            ledger = self.inside.aggregator.ledger
            ledger.sent((size - 1) * output.numel() * output.element_size())
            with ledger.timed("exchange"):
                exact(output, tensor, group, op)

    def reduce_between(self, index: int, tensor: Any) -> None:
        """Overwrite ``tensor``, this node's sum of this rank's chunk, with its mean over the nodes."""
        self._in_step()
        hop = self.between
        assert hop is not None
        size = hop.transport.gradients.size
        if hop.pays(tensor, 1):
            hop.reduce(index, tensor, tensor, 1.0)
        elif size > 1:
            ledger = hop.aggregator.ledger
            ledger.sent(ring_bytes(size, tensor.numel() * tensor.element_size()))
            with ledger.timed("exchange"):
                hop.transport.plain.average(tensor, f"{hop.options.name}.exact", lambda: None).wait()

    def _in_step(self) -> None:
        """Open a step, and have it closed at the end of the backward pass."""
        self._is_open = True
        # FSDP's own last work of a backward pass may come after an earlier one of these: whichever finds a step open
        # closes it. A pass that failed has left none.
        backends.torch().autograd.Variable._execution_engine.queue_callback(self._end_step)

    def _end_step(self) -> None:
        if self._is_open:
            self._is_open = False
            for hop in self._hops:
                hop.end_step()

    def metrics(self) -> dict[str, Any]:
        """Return what this rank counted so far, as plain values; ``Session.metrics`` explains the keys.

        Bytes and seconds are those of both hops, exact reductions included; all-gathers of parameters are FSDP's own
        and not counted. The other keys are of the hop that is quantised first; ``between`` has those of the second.
        """
        inside, *between = (hop.aggregator.metrics() for hop in self._hops)
        main = between[0] if between and self.inside.options.resolve().exact else inside
        both = [inside, *between]
        counted: dict[str, Any] = {key: sum(each[key] for each in both) for key in ("bytes_per_step", "bytes_total")}
        counted["bytes_inside_per_step"] = inside["bytes_per_step"]
        counted["seconds"] = {phase: sum(each["seconds"][phase] for each in both) for phase in inside["seconds"]}
        return {**main, **counted, "between": between[0] if between else None}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; call it between steps.

        The same on every rank but for counters and, with error feedback, residuals.
        """
        return {
            "inside": self.inside.aggregator.state_dict(),
            "between": None if self.between is None else self.between.aggregator.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; call it on every rank, between steps.

        Raises:
            StateError: the state is of other hops, or of another method, width or seed, or is damaged.
        """
        if not isinstance(state, dict):
            raise StateError(f"expected the result of state_dict(), got {type(state).__name__}")
        expected = {"inside": True, "between": self.between is not None}
        held = {name: state.get(name) is not None for name in expected}
        if held != expected:
            raise StateError(f"expected the state of these hops: {expected}, as of state_dict(), got {held}")
        self.inside.aggregator.load_state_dict(state["inside"])
        if self.between is not None:
            self.between.aggregator.load_state_dict(state["between"])


@dataclass(frozen=True, slots=True)
class QuantisedReduceScatter:
    """What FSDP calls to reduce the gradients of one module: a ``ReduceScatter`` of ``torch.distributed.fsdp``.

    Attributes:
        compression: does it.
        index: of the module.
        exact: FSDP's own one, which allocates, and reduces what is not quantised.
    """

    compression: ShardedCompression
    index: int
    exact: Any

    def allocate(self, size: Any, *, dtype: Any, device: Any) -> Any:
        """Return memory for gradients, as FSDP's own would."""
        return self.exact.allocate(size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Any, input_tensor: Any, group: Any, op: Any, async_op: bool = False) -> None:
        """Reduce and scatter; what ``async_op`` asks for, the current stream gives: no handle is returned."""
        self.compression.reduce_scatter(self.index, self.exact, output_tensor, input_tensor, group, op)


def _one_shot(options: Options) -> Options:
    """Return the options of a reduce-scatter, which quantises once, as the all-gather does."""
    bits = options.bits[0] if isinstance(options.bits, tuple) else options.bits
    return options.changed(exchange="allgather", bits=bits, error_feedback=False)


def _refuse_twice(modules: list[ShardedModule]) -> None:
    taken = [each.name for each in modules if isinstance(each.reduce_scatter, QuantisedReduceScatter)]
    if taken:
        raise ConfigurationError(
            f"model: expected one without compression, got {taken[0]} with one: call alq_hvd.fsdp.compress once"
        )


def _refuse_options(options: Options, inside: bool, across: TorchCommunicator | None) -> None:
    if options.error_feedback and (inside or across is None):
        raise ConfigurationError(
            "error_feedback: expected between= and inside=False beside it, got a quantised reduce-scatter: every rank "
            "would keep four bytes for each parameter of the whole model, which sharding is meant to avoid"
        )
    if options.break_even:
        raise ConfigurationError("break_even: expected None or False, got True: FSDP cannot switch reductions in a run")


def _everyone(mesh: Any, shard: TorchCommunicator, across: TorchCommunicator | None) -> tuple[TorchCommunicator, int]:
    """Return what reaches all ranks of the mesh, and how many nodes have the same parameters."""
    replicas = int(getattr(mesh, "replicate_mesh_size", 1))
    if across is not None and replicas > 1:
        raise ConfigurationError(
            f"between: expected a model sharded over a mesh of one dimension, got {mesh.mesh}, where FSDP adds up "
            "between nodes itself: call fully_shard(..., mesh=mesh['shard']) and pass between=mesh['replicate']"
        )
    dist = backends.torch_distributed()
    if across is not None:
        own = json.dumps(dist.get_process_group_ranks(across.world)).encode()
        told = [json.loads(raw) for raw in allgather_bytes(shard, own, "alq_hvd.fsdp.mesh")]
        ranks, nodes = sorted({rank for row in told for rank in row}), len(told[0])
        if len(ranks) != shard.size * nodes or any(len(row) != nodes for row in told):
            raise ConfigurationError(
                f"between: expected for each rank those with its place on other nodes, got {told} for the ranks "
                f"{dist.get_process_group_ranks(shard.world)} of this one: pass between=mesh['replicate']"
            )
    elif replicas > 1:
        ranks, nodes = sorted(mesh.mesh.mesh.flatten().tolist()), replicas
    else:
        return shard, 1
    return TorchCommunicator(None, shard.timeout).part(ranks), nodes


def _agree(
    everyone: TorchCommunicator,
    modules: list[ShardedModule],
    options: Options,
    inside: bool,
    across: TorchCommunicator | None,
) -> None:
    own = {
        **options.shared(),
        "inside": inside,
        "nodes": 0 if across is None else across.size,
        "modules": [[each.name, each.elements, each.dtype] for each in modules],
        "alq_hvd": __version__,
    }
    agree_on_configuration(everyone, own, f"{options.name}.fsdp")
