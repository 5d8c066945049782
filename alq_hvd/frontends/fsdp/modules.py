"""What FSDP2 tells of a model: which modules reduce their gradients together, over which ranks, in which type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alq_hvd import backends
from alq_hvd.engine.fusion import CONVERTIBLE
from alq_hvd.errors import BackendUnavailable, ConfigurationError

_NEEDED = ("set_custom_reduce_scatter", "set_all_reduce_hook", "set_force_sum_reduction_for_comms")


@dataclass(frozen=True, slots=True)
class ShardedModule:
    """One module, or several that were given to ``fully_shard`` together, whose gradients are reduced together.

    Attributes:
        name: within the model; ``"model"`` for the model itself.
        module: an ``FSDPModule``.
        elements: parameters that are trained.
        dtype: of its gradients on their way, as text.
        group: torch's own ``FSDPParamGroup``.
    """

    name: str
    module: Any
    elements: int
    dtype: str
    group: Any

    @property
    def mesh(self) -> Any:
        """Return torch's description of the mesh over which it is sharded."""
        return self.group.mesh_info

    @property
    def reduce_scatter(self) -> Any:
        """Return the reduce-scatter in use: FSDP's own, or one that somebody has set."""
        return self.group._reduce_scatter_comm


def sharded_modules(model: Any) -> list[ShardedModule]:
    """Return the modules of ``model`` to which ``fully_shard`` was applied and that train something, in order.

    Raises:
        BackendUnavailable: this torch knows no custom reduce-scatter.
        ConfigurationError: there is none; one has several parameter groups, or dtypes that cannot travel together;
            they are sharded over several meshes.
    """
    kind: Any = getattr(backends.require("torch.distributed.fsdp"), "FSDPModule", None)
    if not all(hasattr(kind, method) for method in _NEEDED):
        version = backends.torch().__version__
        raise BackendUnavailable(
            f"expected an FSDP2 with {', '.join(_NEEDED)}, got torch {version}: pip install 'torch>=2.9'"
        )
    if not hasattr(model, "named_modules") or not any(isinstance(module, kind) for module in model.modules()):
        raise ConfigurationError(
            f"model: expected one that torch.distributed.fsdp.fully_shard was applied to, got {type(model).__name__}: "
            "call fully_shard on its layers and on itself first"
        )
    found = list(_found(model, kind))
    if not found:
        raise ConfigurationError("model: expected sharded parameters that are trained, got none: set requires_grad")
    meshes = {str(each.mesh.mesh): each.name for each in found}
    if len(meshes) > 1:
        described = "; ".join(f"{name} over {mesh}" for mesh, name in meshes.items())
        raise ConfigurationError(
            f"model: expected one mesh for all its modules, got {described}: compress the parts of each mesh apart, "
            "each with a name= of its own"
        )
    return found


def _found(model: Any, kind: Any) -> Iterator[ShardedModule]:
    seen = set()
    for name, module in model.named_modules():
        if not isinstance(module, kind):
            continue
        state = module._get_fsdp_state()
        if id(state) in seen:  # several modules were given to fully_shard together
            continue
        seen.add(id(state))
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:  # torch up to 2.11 had one
            groups = [state._fsdp_param_group] if state._fsdp_param_group else []
        described = name or "model"
        if len(groups) > 1:
            raise ConfigurationError(
                f"{described}: expected one parameter group, got {len(groups)}, of a shard_placement_fn with several "
                "meshes: torch takes no custom reduce-scatter there"
            )
        trained = [each for each in groups[0].fsdp_params if each.sharded_param.requires_grad] if groups else []
        if trained:
            yield _described(described, module, groups[0], trained)


def _described(name: str, module: Any, group: Any, trained: list[Any]) -> ShardedModule:
    dtypes = {str(each.sharded_param.dtype) for each in trained}
    if len(dtypes) > 1:
        raise ConfigurationError(
            f"{name}: expected parameters of one dtype, got {', '.join(sorted(dtypes))}: FSDP reduces a module's "
            "gradients together; apply fully_shard to those of another dtype apart"
        )
    policy = group.mp_policy
    dtype = str(policy.reduce_dtype or policy.param_dtype or dtypes.pop())
    if dtype not in CONVERTIBLE:
        raise ConfigurationError(
            f"{name}: expected gradients of dtype {', '.join(CONVERTIBLE)}, got {dtype}: pass "
            "fully_shard a MixedPrecisionPolicy(reduce_dtype=torch.float32)"
        )
    if not hasattr(group.mesh_info, "shard_process_group"):
        raise ConfigurationError(f"{name}: expected parameters that are sharded, got replicated ones: use alq_hvd.ddp")
    return ShardedModule(name, module, sum(each.sharded_param.numel() for each in trained), dtype, group)
