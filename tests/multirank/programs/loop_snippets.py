"""Run the Python of the guide to training loops, piece by piece, on four ranks of one front end.

Usage: loop_snippets.py RESULTS_DIRECTORY FRONT_END
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # the program's own folder stands there, not the checkout

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  # once, before there are ranks
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

import alq_hvd  # noqa: E402
from tests.faults.worlds import fork  # noqa: E402

RANKS = 4
GUIDE = ROOT / "docs" / "guides" / "training-loops.md"
NAMES = {"horovod": "Horovod", "ddp": "DDP"}


def pieces(front_end: str) -> list[tuple[str, str]]:
    """Return heading and text of each piece of ``front_end``."""
    found, heading = [], ""
    for title, code in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S):
        heading = title or heading
        if code.startswith(f"# {NAMES[front_end]}\n"):
            found.append((heading, code))
    return found


def run(code: str, given: dict[str, Any], rank: int) -> dict[str, Any]:
    """Run one piece on a new model; return what came of it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.Tanh(), torch.nn.Linear(60, 40))
    before = model[0].weight.detach().clone()
    generator = torch.Generator().manual_seed(rank + 1)
    room: dict[str, Any] = {
        "alq_hvd": alq_hvd,
        "torch": torch,
        "DistributedDataParallel": DistributedDataParallel,
        "model": model,
        "batches": [torch.randn(8, 40, generator=generator) for _ in range(6)],
        "device": "cpu",
        "backend": "aot_eager",  # compiles without a C++ compiler
        "loss_of": lambda batch: room["model"](batch).square().mean(),
        **given,
    }
    exec(compile(code, "training-loops.md", "exec"), room)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    told: dict[str, Any] = {
        "digest": hashlib.sha256(flat.numpy().tobytes()).hexdigest(),
        "moved": not torch.equal(before, model[0].weight),
    }
    if "compression" in room:
        metrics = room["compression"].metrics()
        told |= {key: metrics[key] for key in ("step", "bits", "compressed_elements")}
    if "statistics" in room:
        shown = room.get("mean", room["statistics"])
        told["digest"] = hashlib.sha256(shown.numpy().tobytes()).hexdigest()
    return told


def one_rank(front_end: str, folder: Path) -> None:
    """Run all pieces on this rank; the one that makes groups of ranks of Horovod starts it, so it comes first."""
    rank = int(os.environ["HOROVOD_RANK" if front_end == "horovod" else "RANK"])
    given: dict[str, Any] = {}
    if front_end == "horovod":
        import horovod.torch as hvd

        given["hvd"] = hvd
    else:
        torch.distributed.init_process_group("gloo")
    told = {}
    for heading, code in sorted(pieces(front_end), key=lambda piece: "hvd.init" not in piece[1]):
        usual = code.replace("bits=", "min_elements=100, break_even=False, timeout=60, bits=", 1)
        told[heading] = run(usual.replace("allreduce_([statistics], min_elements=100, break_even=False, timeout=60, ",
                                          "allreduce_([statistics], timeout=60, "), given, rank)  # fmt: skip
    (folder / f"{rank}.json").write_text(json.dumps(told))
    print("finished", file=sys.stderr)


def main() -> int:
    """Start the ranks; print what failed ones have written."""
    folder, front_end = Path(sys.argv[1]), sys.argv[2]
    if front_end == "horovod":
        import horovod.torch  # noqa: F401
    ended = fork(front_end, RANKS, range(RANKS), partial(one_rank, front_end, folder), 280, folder)
    for rank, each in enumerate(ended):
        if "finished" not in each.output:
            print(f"rank {rank}: {each.status}\n{each.output[-3000:]}")
    return int(any("finished" not in each.output for each in ended))


if __name__ == "__main__":
    sys.exit(main())
