"""What a level that is exactly zero costs, and what becomes of zeros without one.

    python benchmarks/zeros.py [--output benchmarks/results/zeros.json]

1. The relative variance of every method with a zero level over that without one, on real gradients
   (``real_gradients.py``) and on normal numbers.
2. A small model of words trained with Adam on two simulated ranks: how far weights move whose gradients are zero on
   every rank, which plain Horovod leaves where they are. The text is the source of Python's own library.

About half a minute on one core; needs torch and mlxtend.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.measurement import fit, measure  # noqa: E402
from alq_hvd.communicator.loopback import LoopbackCommunicator, LoopbackWorld  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from alq_hvd.quantiser import methods  # noqa: E402
from benchmarks.real_gradients import real_gradients  # noqa: E402

COSTED = ("optimal", "alq", "alqg", "amq", "qsgdinf", "qsgd", "nuqsgd")
BITS, BUCKET_SIZES = (2, 3, 4), (64, 1024, 8192)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("none", {}),
    "optimal": ("optimal", {}),
    "optimal, no zero level": ("optimal", {"zero_level": False}),
    "optimal, rotated": ("optimal", {"rotate": True}),
    "eden": ("eden", {}),
    "alq": ("alq", {}),
    "alq, no zero level": ("alq", {"zero_level": False}),
}
WORDS, WIDTH, CONTEXT, BATCH, STEPS, RARE = 2000, 64, 8, 64, 60, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "zeros.json")
    args = parser.parse_args()
    recorded = list(real_gradients(ROOT / ".cache" / "levels-gradients.npz").values())
    normal = [np.random.default_rng(0).standard_normal(2**17).astype(np.float32)]
    result = {
        "machine": {"processor": processor(), "python": platform.python_version(), "numpy": np.__version__},
        "cost": [row for name in COSTED for row in costs(name, recorded, normal)],
        "drift": {"bits": 3, "steps": STEPS, "optimizer": "Adam, learning rate 0.01", "runs": drifts()},
    }
    show(result)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {args.output}")


def costs(name: str, *kinds: list[npt.NDArray[np.float32]]) -> list[dict[str, Any]]:
    """Return the relative variance without and with a zero level, geometric mean over the gradients of each kind."""
    rows = []
    for bits in BITS:
        for bucket_size in BUCKET_SIZES:
            row: dict[str, Any] = {"method": name, "bits": bits, "bucket_size": bucket_size}
            for kind, gradients in zip(("real", "normal"), kinds, strict=True):
                for label, zero in (("without", False), ("with", True)):
                    method = methods.method(name, bits=bits, zero_level=zero)
                    config = method.quantiser(bits, bucket_size)
                    found = [
                        measure(each, config, fit(each, method, config).levels, draws=0).relative_variance
                        for each in gradients
                    ]
                    row[f"{kind}_{label}"] = float(f"{math.exp(np.mean(np.log(found))):.4g}")
            rows.append(row)
    return rows


def drifts() -> list[dict[str, Any]]:
    """Train once with every run, and tell how far weights went that had no gradient on any rank."""
    text = words()
    return [{"run": run, **LoopbackWorld(2).run(lambda ranks, run=run: train(ranks, run, text))[0]} for run in RUNS]


def numbers() -> npt.NDArray[np.int64]:
    """Return the rows of the table, but for row 0, in the order in which words get them; the last ones stay unused."""
    return 1 + np.random.default_rng(3).permutation(WORDS - 1)


def words() -> npt.NDArray[np.int64]:
    """Return the words of Python's library by the rows they have in the table; 0 for those that are not frequent."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    found = re.findall(r"\w+|[^\w\s]", "".join(path.read_text(errors="replace") for path in sources))
    frequent = Counter(found).most_common(WORDS - RARE - 1)
    number = {word: row for row, (word, _) in zip(numbers(), frequent, strict=False)}
    return np.array([number.get(word, 0) for word in found], dtype=np.int64)


def train(ranks: LoopbackCommunicator, run: str, text: npt.NDArray[np.int64]) -> dict[str, Any]:
    import torch

    import alq_hvd
    from tests.support.stand_in import reduce_gradients

    torch.manual_seed(0)
    torch.set_num_threads(1)
    name, options = RUNS[run]
    table = torch.nn.Embedding(WORDS, WIDTH, padding_idx=0)
    hidden, out = torch.nn.Linear(CONTEXT * WIDTH, 128), torch.nn.Linear(128, WORDS)
    mask = (torch.rand(hidden.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    model = torch.nn.ModuleDict({"table": table, "hidden": hidden, "out": out})
    named = list(model.named_parameters())
    compression = getattr(alq_hvd.Compression, name)(
        bits=3, communicator=ranks, named_parameters=named, break_even=False, measure_every=10**6, **options
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.no_grad():
        hidden.weight *= mask
    rows = table.weight.detach().clone()
    order = np.random.default_rng([7, ranks.rank])
    for _ in range(STEPS):
        at = order.integers(CONTEXT, len(text), BATCH)
        context = torch.from_numpy(np.stack([text[i - CONTEXT : i] for i in at]))
        optimizer.zero_grad()
        scores = out(torch.relu(hidden(table(context).flatten(1))))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(text[at]))
        loss.backward()
        hidden.weight.grad *= mask
        for key, gradient in reduce_gradients(ranks, compression, [(key, each.grad) for key, each in named]).items():
            dict(named)[key].grad = gradient
        optimizer.step()
    moved = (table.weight.detach() - rows).abs()
    return {
        "padding_row": float(f"{float(moved[0].max()):.3g}"),
        "rows_never_seen": float(f"{float(moved[numbers()[-RARE:]].max()):.3g}"),
        "masked_weights": float(f"{float((hidden.weight.detach() * (1 - mask)).abs().max()):.3g}"),
        "loss": float(f"{float(loss.detach()):.3g}"),
    }


def show(result: dict[str, Any]) -> None:
    """Print both tables."""
    print("relative variance with a zero level / without one, real gradients (normal numbers)")
    print("method   bits " + "".join(f"{size:>18}" for size in BUCKET_SIZES))
    rows = {(row["method"], row["bits"], row["bucket_size"]): row for row in result["cost"]}
    for name in COSTED:
        for bits in BITS:
            cells = [rows[name, bits, size] for size in BUCKET_SIZES]
            ratios = [
                f"{cell['real_with'] / cell['real_without']:10.2f} ({cell['normal_with'] / cell['normal_without']:.2f})"
                for cell in cells
            ]
            print(f"{name:<8} {bits:>4} " + "".join(f"{ratio:>18}" for ratio in ratios))
    print(f"\nlargest move of weights without a gradient, {result['drift']['steps']} steps of Adam")
    for row in result["drift"]["runs"]:
        print(f"{row['run']:<24} padding row {row['padding_row']:<8.3g} rows never seen {row['rows_never_seen']:<8.3g} "
              f"masked weights {row['masked_weights']:<8.3g} loss {row['loss']:.3g}")  # fmt: skip


if __name__ == "__main__":
    main()
