"""Two ranks over Gloo are given what cannot work, by one of them or by both; each tells the errors it got.

Usage: bad_input.py RESULTS_DIRECTORY
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[3]))  # the program's own folder stands there, not the checkout

import alq_hvd
from alq_hvd.errors import AlqError
from tests.support.forked import fork
from tests.support.leaving import leave_together

RANKS, LEFT_ALONE = 2, 3.0


class Lacking(dist.ProcessGroup):
    """A group of a backend that carries nothing, and says that it does."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self.store = store

    def get_group_store(self) -> Any:
        return self.store

    def _get_backend(self, device: Any) -> Any:
        return self


class Storeless(Lacking):
    """One that has no store either, as that of MPI."""

    def get_group_store(self) -> Any:
        return None


def model(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40)).to(dtype)


def state(method: str = "alq", **options: Any) -> Any:
    chosen = {"bits": 4, "min_elements": 50, "break_even": False, "timeout": 60}
    return alq_hvd.ddp.CompressionState(method, **{**chosen, **options})


def hooked(made: Any, dtype: torch.dtype = torch.float32) -> Any:
    wrapped = DistributedDataParallel(model(dtype))
    wrapped.register_comm_hook(made, alq_hvd.ddp.hook)
    return wrapped


def step(wrapped: Any) -> None:
    dtype = next(wrapped.parameters()).dtype
    wrapped(torch.ones(4, 40, dtype=dtype)).abs().square().mean().backward()


def sharded(mesh: Any, **options: Any) -> Any:
    return fully_shard(model(), mesh=mesh, **options)


def average(over: Any, dtype: torch.dtype = torch.float32, **options: Any) -> None:
    alq_hvd.allreduce_([torch.ones(3000, dtype=dtype)], over, **{"bits": 4, "timeout": 60, **options})


def groups_of_ranks(rank: int) -> dict[str, Callable[[], Any]]:
    """Return what cannot work because of the ranks or of what reaches them."""
    own, both = [dist.new_group([0]), dist.new_group([1])], dist.new_group([0, 1])
    dist.Backend.register_backend("lacking", Lacking, devices=["cpu"])
    dist.Backend.register_backend("storeless", Storeless, devices=["cpu"])
    lacking, storeless = (dist.new_group([0, 1], backend=backend) for backend in ("lacking", "storeless"))
    line, others = init_device_mesh("cpu", (RANKS,)), own[1 - rank]
    mixed = own[0] if rank else both
    return {
        "ddp, group without this rank": lambda: step(hooked(state(process_group=others))),
        "ddp, one rank not in its group": lambda: step(hooked(state(process_group=mixed, timeout=LEFT_ALONE))),
        "ddp, no all-reduce: a lane has it": lambda: step(hooked(state("none", process_group=lacking))),
        "ddp, no store": lambda: step(hooked(state(process_group=storeless))),
        "plain, group without this rank": lambda: average(others),
        "plain, no store": lambda: average(storeless),
        "fsdp, nodes without this rank": lambda: alq_hvd.fsdp.compress(sharded(line), bits=4, between=others),
    }


def of_one_model(rank: int) -> dict[str, Callable[[], Any]]:
    """Return what cannot work because of options, tensors and states."""
    line, both = init_device_mesh("cpu", (RANKS,)), dist.new_group([0, 1])

    def twice() -> None:
        hooked(made := state()).register_comm_hook(made, alq_hvd.ddp.hook)

    def other_state(loads: bool, **options: Any) -> None:
        before, made = state("amq"), state("alq", **options)
        step(hooked(before))
        wrapped = hooked(made)
        if loads:
            made.load_state_dict(before.state_dict())
        step(wrapped)

    def loaded_by_one() -> None:
        before, made = state(), state()
        step(hooked(before))
        if rank:
            made.load_state_dict(before.state_dict())
        step(hooked(made))

    def several_groups() -> None:
        from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, ShardPlacementResult
        from torch.distributed.tensor import Shard

        meshes = [FSDPMeshInfo(each, 0) for each in (line, DeviceMesh.from_group(both, "cpu"))]
        placed = sharded(line, shard_placement_fn=lambda each: ShardPlacementResult(Shard(0), meshes[each.ndim - 1]))
        alq_hvd.fsdp.compress(placed, bits=4)

    def fsdp(method: str = "optimal", **options: Any) -> Any:
        return alq_hvd.fsdp.compress(sharded(line), method=method, timeout=60, **{"bits": 4, **options})

    return {
        "ddp, options differ": lambda: step(hooked(state(bits=3 + rank))),
        "ddp, hook twice": twice,
        "ddp, complex parameters": lambda: step(hooked(state(), torch.complex64)),
        "ddp, state of another method": lambda: other_state(True),
        "ddp, one rank has such a state": lambda: other_state(rank == 1, process_group=both, timeout=LEFT_ALONE),
        "ddp, one rank alone has a state": loaded_by_one,
        "plain, options differ": lambda: average(None, bits=3 + rank),
        "plain, integers": lambda: average(None, torch.int64),
        "plain, one rank has integers": lambda: average(None, torch.int64 if rank else torch.float32),
        "fsdp, options differ": lambda: fsdp(bits=3 + rank),
        "fsdp, several parameter groups": several_groups,
        "fsdp, state of another method": lambda: fsdp("alq").load_state_dict(fsdp("amq").state_dict()),
        "fsdp, state of ddp": lambda: fsdp().load_state_dict(state().state_dict()),
        "fsdp, no state": lambda: fsdp().load_state_dict(None),
    }


def error(doing: Callable[[], Any]) -> str:
    """Return the kind and the text of the error that ``doing`` raises."""
    try:
        doing()
    except (AlqError, RuntimeError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return "none"


def main(results: Path) -> None:
    """Try everything, and write this rank's errors."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    told = {}
    for case, doing in (groups_of_ranks(rank) | of_one_model(rank)).items():
        dist.barrier()
        told[case] = error(doing)
    (results / f"{rank}.json").write_text(json.dumps(told))
    leave_together(results, RANKS)


if __name__ == "__main__":
    fork(RANKS, main, Path(sys.argv[1]))
