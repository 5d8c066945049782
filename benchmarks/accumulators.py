"""What narrow accumulators do: to sums, to training of the demo's ResNet-8, and to 4096 ranks.

    python benchmarks/accumulators.py [--parts speed sums ranks activations training] [--quick]

Five parts, each printed and kept in benchmarks/results/accumulators.json and .png:

* speed: of the emulator;
* sums: variance kept and noise of emulated adders, beside the theory's;
* ranks: 4096 simulated ranks, 32 examples each, added up by the code that adds up inside a node, in each type;
* activations: ReLU, tanh and sigmoid in the demo's network: zeros among the products, and how far sums are from random;
* training: ResNet-8 with 8-bit (1, 5, 2) operands and every sum of every inner layer emulated, at the width the theory
  predicts and at fewer bits, three seeds. Small: images halved to 14 x 14, 2 000 of them, three epochs.

A quarter of an hour on one core; the compiled emulator must have been built (``make setup``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


from alq_hvd import backends  # noqa: E402
from alq_hvd.accumulation import (  # noqa: E402  # noqa: E402
    Adder,
    Adders,
    emulate_accumulators,
    emulated,
    emulated_torch,
    min_mantissa,
    observe,
    plan_accumulator,
    planned_adders,
    rounding_nmse,
    vrr,
)
from alq_hvd.accumulation.rounding import rounded  # noqa: E402
from alq_hvd.accumulation.types import TYPES  # noqa: E402
from alq_hvd.codec.arrays import FloatArray, HostArrays  # noqa: E402
from alq_hvd.machine import processor  # noqa: E402
from benchmarks.accumulators_picture import draw  # noqa: E402
from benchmarks.emulated_resnet import accuracy, load_images, loss_of, resnet, small_images, train  # noqa: E402

PRODUCT = 5
SKIPPED = ("stem.0", "classifier")
"""The first layer reads images and the last gives scores: both in 16 bits in the paper, in float32 here."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "accumulators.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.seeds = args.seeds[:1]
    result = json.loads(args.output.read_text()) if args.output.exists() else {}
    result["machine"] = {"processor": processor(), "torch": torch.__version__, "numpy": np.__version__}
    for part in args.parts:
        print(f"\n{part}", flush=True)
        began = time.perf_counter()
        result[part] = PARTS[part](args)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, args.output.with_suffix(".png"))
    print(f"\nwritten: {args.output}")
    return 0


def speed(args: argparse.Namespace) -> dict[str, float]:
    """Return processor time of a multiplication and addition by each way, and of a step of training."""
    found: dict[str, float] = {}
    left, right = torch.randn(3136, 576), torch.randn(576, 64)
    operations = left.numel() * right.shape[1]
    for name, product, adder in (
        ("torch's float32", torch.matmul, None),
        ("compiled", emulated_torch.matmul, Adder(7)),
        ("torch's loops", emulated_torch.loops, Adder(7)),
    ):
        given = (left, right) if adder is None else (left, right, adder)
        found[f"ns, {name}"] = 1e9 * min(processor_time(partial(product, *given)) for _ in range(3)) / operations
    images = small_images(320, 10)
    for name, adders in (("torch's float32", None), ("emulated", Adders(*[Adder(7)] * 3, operands=2))):
        model = resnet(functional.relu, 0)
        if adders is not None:
            emulate_accumulators(model, adders, SKIPPED)
        train(model, images, 1, 0)
        found[f"ms a step, {name}"] = 1e3 * processor_time(partial(train, model, images, 1, 0)) / 5
    say(found)
    return found


def processor_time(run: Callable[[], object]) -> float:
    """Return seconds of this process, which other processes on busy cores do not change much."""
    began = time.process_time()
    run()
    return time.process_time() - began


def sums(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return variance kept and noise of sums of products of two 2-bit floats."""
    generator = np.random.default_rng(0)
    trials, rows = 300 if args.quick else 2000, []
    terms = rounded(generator.standard_normal((16_384, trials), np.float32), PRODUCT)
    for mode in ("nearest", "truncate"):
        for bits in (3, 4, 5, 7, 10):
            for count in (64, 256, 1024, 4096, 16_384):
                exact = terms[:count].sum(axis=0, dtype=np.float64)
                found = emulated.add_up(terms[:count], Adder(bits, mode)).astype(np.float64)
                energy = float((exact**2).sum())
                rows.append(
                    {
                        "mode": mode,
                        "bits": bits,
                        "terms": count,
                        "vrr": float((found**2).sum()) / energy,
                        "vrr_theory": vrr(bits, PRODUCT, count),
                        "nmse": float(((found - exact) ** 2).sum()) / energy,
                        "nmse_theory": rounding_nmse(bits, count),
                        "accepted": bits >= min_mantissa(PRODUCT, count),
                    }
                )
                say(rows[-1])
    return rows


def ranks(args: argparse.Namespace) -> dict[str, Any]:
    """Return the loss, step by step, of 4096 ranks whose gradients are added up in each type.

    Logistic regression of Fashion-MNIST at 7 x 7, which has few weights, so that 4096 gradients fit in memory; every
    rank has the gradient of 32 examples. ``HostArrays.add_up`` is what adds up inside a node.
    """
    count, local, steps = 4096, 32, 10 if args.quick else 40
    images = load_images(train=20_000)
    pixels = functional.avg_pool2d(images.train_images, 4).flatten(1)
    pixels = torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1)
    owned = torch.randint(len(pixels), (count, local), generator=torch.Generator().manual_seed(0))
    inputs, labels = pixels[owned], images.train_labels[owned]
    targets = functional.one_hot(labels, 10).float()
    plan, on_nodes = plan_accumulator(count), plan_accumulator(count, local_size=64)
    ways: dict[str, tuple[str, int]] = {
        "fp32": ("fp32", count),
        f"planned, one sum: {plan.dtype}": (plan.dtype, count),
        f"planned, 64 nodes of 64: {on_nodes.dtype}": (on_nodes.dtype, 64),
        "forced fp16": ("fp16", count),
        "forced bf16": ("bf16", count),
    }
    curves: dict[str, list[float]] = {}
    for name, (dtype, chunk) in ways.items():
        weights, losses = torch.zeros(pixels.shape[1], 10), []
        for _ in range(steps):
            scores = inputs @ weights
            losses.append(float(functional.cross_entropy(scores.flatten(0, 1), labels.flatten())))
            gradients = inputs.transpose(1, 2) @ (functional.softmax(scores, dim=2) - targets) / local
            parts = np.split(gradients.flatten(1).numpy(), count // chunk)
            total = added(np.stack([added(part, dtype) for part in parts]), dtype)
            weights -= 0.5 * torch.from_numpy(total).reshape(weights.shape) / count
        curves[name] = losses
        say({"sums": name, "loss after": steps, "is": losses[-1], "relative to fp32": losses[-1] / curves["fp32"][-1]})
    return {"ranks": count, "steps": steps, "loss": curves, "plans": [plan.reason, on_nodes.reason]}


def added(terms: FloatArray, dtype: str) -> FloatArray:
    """Return the sum of float32[n, elements] over n, by the code of a node's sum."""
    arrays, kind, out = HostArrays(), TYPES[dtype], np.empty(terms.shape[1], np.float32)
    arrays.add_up([arrays.as_bytes(term, kind) for term in terms], out, kind)
    return out


def activations(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return, by activation, zeros, mean and sums of the inner layers of ResNet-8, after a short training."""
    images, rows = small_images(1000, 500), []
    for name, activation in (("relu", functional.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)):
        model = resnet(activation, seed=0)
        train(model, images, epochs=1 if args.quick else 3, seed=0)
        model.train()
        inputs, labels = images[0][:128], images[1][:128]
        inner = [layer for key, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and key not in SKIPPED]
        seen: list[torch.Tensor] = []
        hooks = [layer.register_forward_pre_hook(partial(note_input, seen)) for layer in inner]
        observed = observe(model, partial(loss_of, model, inputs, labels), skip=SKIPPED)
        for hook in hooks:
            hook.remove()
        row: dict[str, Any] = {
            "activation": name,
            "nonzero inputs": statistics.mean(float((each != 0).float().mean()) for each in seen),
            "mean/deviation": statistics.mean(float(each.mean() / each.std()) for each in seen),
        }
        for which in ("forward", "backward", "gradient"):
            passes = [layer[which] for layer in observed.values()]
            row[f"{which} nzr"] = statistics.mean(each.nzr for each in passes)
            row[f"{which} growth"] = statistics.mean(each.growth for each in passes)
            row[f"{which} bits"] = [min_mantissa(PRODUCT, each.length, nzr=each.nzr) for each in passes]
        rows.append(row)
        say(row)
    return rows


def note_input(seen: list[torch.Tensor], _: nn.Module, given: tuple[torch.Tensor]) -> None:
    """Remember what a layer is given."""
    seen.append(given[0].detach())


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Return test accuracies by accumulators: float32, as predicted, with fewer bits, and truncating (one seed)."""
    if not backends.available(emulated_torch.NATIVE):
        raise SystemExit("training: expected the compiled emulator, without which it takes days: run make setup")
    examples, epochs = (1000, 1) if args.quick else (2000, 3)
    images = small_images(examples, 2000)
    widths: dict[str, Any] = {}
    runs: dict[str, Callable[[Any], dict[str, Adders]]] = {
        "fp32": lambda seen: {name: Adders(operands=2) for name in seen},
        **{
            f"predicted{-fewer or ''}": lambda seen, fewer=fewer: planned_adders(seen, more=-fewer)
            for fewer in (0, 1, 2, 3)
        },
        "predicted, truncated": lambda seen: planned_adders(seen, mode="truncate"),
    }
    rows = []
    for name, chosen in runs.items():
        accuracies, losses = [], []
        for seed in args.seeds[:1] if "truncated" in name else args.seeds:
            model = resnet(functional.relu, seed)
            observed = observe(model, partial(loss_of, model, images[0][:64], images[1][:64]), skip=SKIPPED)
            model.zero_grad()
            adders = chosen(observed)
            emulate_accumulators(model, adders)
            widths[name] = {
                layer: [getattr(own, which).mantissa for which in ("forward", "backward", "gradient")]
                for layer, own in adders.items()
            }
            losses.append(train(model, images, epochs, seed))
            accuracies.append(accuracy(model, images[2], images[3]))
        row = {"accumulators": name, "accuracy": accuracies, "mean": statistics.mean(accuracies), "loss": losses}
        same_seeds = (rows[0]["accuracy"] if rows else accuracies)[: len(accuracies)]
        row["less fp32"] = row["mean"] - statistics.mean(same_seeds)
        rows.append(row)
        say(row)
    return {"images": examples, "side": 14, "epochs": epochs, "seeds": args.seeds, "rows": rows, "widths": widths}


def say(row: dict[str, Any]) -> None:
    parts = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print("  " + "  ".join(parts), flush=True)


PARTS = {"speed": speed, "sums": sums, "ranks": ranks, "activations": activations, "training": training}

if __name__ == "__main__":
    sys.exit(main())
