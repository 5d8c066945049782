"""Write docs/explanation/evidence.md: the questions that reviewers of the papers left open, answered from results.

    python benchmarks/evidence.py [--check]

Every figure of the page comes from a file in benchmarks/results/, and every section names the command that writes it.
``--check`` only says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training.ways import POWER_SGD_STARTS_AT, Way  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "explanation" / "evidence.md"
NOTHING = 1e-12
"""Variance that is rounding of float64."""
HEAD = """# Evidence

<!-- Written by benchmarks/evidence.py from benchmarks/results/: change those, and run it again. -->

Reviewers of the papers on adaptive quantisation asked questions that the papers leave open. This page goes through
them, one by one, with what was measured here, also where the answer is unfavourable or missing. Every figure is read
from a file in `benchmarks/results/`, which the named command writes. Processors of two cores, no GPU.
"""


def bytes_on_the_wire() -> str:
    """Answer with bytes counted on links."""
    found = _read("exchange")
    rows = []
    for way in ("fp32", "fp16", "two_shot 4", "two_shot 3"):
        cells = [way]
        for case in found["cases"]:
            (row,) = [each for each in case["rows"] if each["way"] == way]
            planned = row["planned_bytes_per_element"]
            cells.append(f"{row['bytes_per_element']:.3f} ({planned:.3f})")
        rows.append(cells)
    headings = ["", *(f"{case['ranks']} hosts, {case['rate']}" for case in found["cases"])]
    return _section(
        "Bytes, not bits: how much travels?",
        "`python benchmarks/exchange.py`",
        "Bytes a coordinate and rank in one step, as the interface counts them: headers of packets and "
        "records, norms "
        "and what Horovod's ranks tell each other included. In brackets: codes and norms alone, by the formula.",
        _table(headings, rows),
    )


def many_workers() -> str:
    """Answer with the error of the mean against the number of ranks."""
    found = _read("rate")
    kinds = list(dict.fromkeys(row["gradients"] for row in found["rows"]))
    ranks = sorted({row["ranks"] for row in found["rows"]})
    rows = []
    for kind in kinds:
        for way, words in (("alone", "each for itself"), ("together", "together"), ("eden", "EDEN")):
            by_ranks = {r["ranks"]: r[way] for r in found["rows"] if r["gradients"] == kind and r["bits"] == 3}
            rows.append([kind, words, *(f"{by_ranks[n]:.4f}" if n in by_ranks else "" for n in ranks)])
    return _section(
        "Does the variance fall with the number of workers?",
        "`python benchmarks/rate.py`",
        "Number of ranks times the squared error of their mean, relative to a gradient's energy, at 3 bits, rotated "
        "buckets: a row that does not change falls as one over the number of ranks. Ranks that round "
        "together do better than that "
        "where their gradients have something in common.",
        _table(["gradients", "rounding", *(f"{n} ranks" for n in ranks)], rows),
    )


def one_shot_or_two() -> str:
    """Answer with the error of the mean by method, exchange and number of ranks."""
    found = _read("simulated-methods")
    words = {"published": "one shot, as published", "one-shot": "one shot", "two-shots": "two shots"}
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    ranks = sorted({row["ranks"] for row in found["rows"]})
    errors = {(row["method"], row["way"], row["ranks"]): row["error"] for row in found["rows"]}
    rows = [
        [f"`{method}`", words[way], *(f"{errors[method, way, n]:.3g}" for n in ranks)]
        for method in methods
        for way in words
    ]
    orders = [", ".join(sorted(methods, key=lambda of, n=n: errors[of, "published", n])) for n in (16, 32)]
    same = (
        "The order at 16 and at 32 ranks is the same" if orders[0] == orders[1] else "The order differs with the ranks"
    )
    return _section(
        "Which method is best at 16 and 32 workers, in one shot or in two?",
        "`python benchmarks/simulated.py`, as its help text says",
        f"Squared error of the mean over the square of the exact mean, 3 bits, buckets of {found['bucket_size']:,}, "
        'normal gradients, half of each common to all ranks. "As published" has no level at zero, and every rank '
        "rounds for itself. One shot falls nearly as one over the number of ranks; the error of the second shot stays. "
        f"{same}, from the best to the worst: {orders[0]}" + ("" if orders[0] == orders[1] else f"; {orders[1]}") + ". "
        "In the rebuttal's accuracies AMQ comes before QSGDinf, which these gradients do not show: their tails are "
        "lighter than those of a network.",
        _table(["method", "exchange", *(f"{n} ranks" for n in ranks)], rows),
    )


def accuracy() -> str:
    """Answer with test accuracy beside fp32."""
    found = _read("accuracy")
    training = found["training"]
    rows = [
        [
            f"`{row['run']}`",
            f"{row['bytes_per_step'] / 1e3:,.0f}",
            _percent(row),
            f"{100 * row['against_first']:+.2f} ± {100 * row['against_first_error']:.2f} %" if number else "",
        ]
        for number, row in enumerate(found["rows"])
    ]
    return _section(
        "Do few bits cost accuracy?",
        "`python benchmarks/accuracy.py`",
        f"Test accuracy of ResNet-8 on Fashion-MNIST: {training['train_images']:,} images, "
        f"{training['epochs']} epochs, {training['np']} ranks, buckets of {training['bucket_size']}, "
        f"{len(found['seeds'])} seeds with the standard "
        "error of their mean.",
        _table(["way", "kB a step", "test accuracy", "minus fp32"], rows),
    )


def size_of_buckets() -> str:
    """Answer with variance by bucket size."""
    found = _read("buckets")
    sizes = found["bucket_sizes"]
    rows, falls = [], []
    for row in found["rows"]:
        variance = row["relative_variance"]
        if row["bits"] == 3 or row["method"] == "terngrad":
            cells = (f"{value:.3g}" if value > NOTHING else "0" for value in variance)
            rows.append([row["method"], str(row["bits"]), *cells])
        if any(larger < 0.99 * smaller for smaller, larger in pairwise(variance)):
            falls.append(f"{row['method']} at {row['bits']} bits")
    verdict = f"It does not fall anywhere but for {', '.join(falls)}." if falls else "It falls nowhere."
    return _section(
        "Does variance grow with the bucket, from none at one coordinate?",
        "`python benchmarks/buckets.py`",
        "Relative variance on a real gradient, levels fitted once. A bucket of one coordinate is exact for "
        "every method. "
        f"{verdict} EDEN's hardly grows: rotated buckets look alike, whatever their size.",
        _table(["method", "bits", *map(str, sizes)], rows),
    )


def cost_of_buckets() -> str:
    """Answer with seconds to fit and to encode."""
    solve, encode = _read("levels")["solve_ms"], _read("buckets")["encode_ns"]
    sizes = sorted({row["bucket_size"] for row in solve} | {64, 1024, 8192, 16384})
    rows = []
    for method in ("alq", "amq", "optimal"):
        own = {row["bucket_size"]: row["median"] for row in solve if row["method"] == method and row["bits"] == 3}
        rows.append([f"fit `{method}`, ms", *(f"{own[size]:.2f}" if size in own else "" for size in sizes)])
    own = {row["bucket_size"]: row["encode_ns"] for row in encode if row["table"] == "uniform"}
    rows.append(["encode, ns a coordinate", *(f"{own[size]:.2f}" if size in own else "" for size in sizes)])
    return _section(
        "What does it cost at small and at large buckets?",
        "`python benchmarks/levels.py`, `python benchmarks/buckets.py`",
        "Milliseconds of one fit at 3 bits, and nanoseconds to encode a coordinate on one core.",
        _table(["", *map(str, sizes)], rows),
    )


def lopsided_tables() -> str:
    """Answer with the time to encode, by table."""
    encode = [row for row in _read("buckets")["encode_ns"] if row["bucket_size"] == 1024]
    rows = [[row["table"], f"{row['encode_ns']:.3f}"] for row in encode]
    return _section(
        "Is AMQ with p other than 1/2 slower to encode?",
        "`python benchmarks/buckets.py`",
        "Powers of 1/2 could be found by shifting bits. The codec looks every table up instead, and takes as "
        "long for each:",
        _table(["table of 3 bits", "ns a coordinate"], rows),
    )


def ternary() -> str:
    """Answer with TernGrad's variance with and without clipping, and its accuracy."""
    variance = [row for row in _read("levels")["relative_variance"] if row["bits"] == 2 and row["step"] == 100]
    rows = [[str(row["bucket_size"]), f"{row['terngrad']:.3g}", f"{row['terngrad_unclipped']:.3g}"] for row in variance]
    trained = {row["run"]: row for row in _read("accuracy")["rows"]}
    plain, own = trained["fp32"], trained["terngrad 2 bits"]
    return _section(
        "TernGrad has three levels: with clipping or without?",
        "`python benchmarks/levels.py`, `python benchmarks/accuracy.py`",
        "Relative variance, bias counted. It is ternary: two bits carry three levels, and one code is never used. "
        f"Clipping at 2.5 standard deviations is what `terngrad` does. Accuracy with clipping: {_percent(own)}, fp32 "
        f"{_percent(plain)} (four ranks, {len(own['test_accuracy'])} seeds).",
        _table(["bucket", "clipped", "not clipped"], rows),
    )


def adaptation() -> str:
    """Answer with the share of a step that adapting takes."""
    found = _read("adaptation")
    rows = []
    for method, bits in dict.fromkeys((row["method"], row["bits"]) for row in found["rows"]):
        own = [row for row in found["rows"] if (row["method"], row["bits"]) == (method, bits)]
        share = statistics.mean(row["share"] for row in own)
        rows.append(
            [method, str(bits), f"{100 * share:.2f} %", f"{statistics.mean(row['update_ms'] for row in own):.0f}"]
        )
    return _section(
        "What does adapting cost?",
        "`python benchmarks/adaptation.py`",
        f"Share of training time at an adaptation every {found['every']} steps, statistics, fit and "
        "broadcast; the paper "
        "reports 0.4 to 0.5 %. Milliseconds of one adaptation, on a busy machine.",
        _table(["method", "bits", "share", "ms"], rows),
    )


def default_options() -> str:
    """Answer with the speed of default options on shaped links, by front end."""
    rows = []
    for front_end, words in (("ddp", "DDP"), ("horovod", "Horovod")):
        for case in _read(f"exchange-defaults-{front_end}")["cases"]:
            seconds = {row["way"]: row["seconds"] for row in case["rows"]}
            times = (f"{seconds['fp32'] / seconds[way]:.2f}" for way in ("two_shot 4", "two_shot 3", "auto 4"))
            rows.append([words, f"{case['ranks']} hosts, {case['rate']}", f"{seconds['fp32'] * 1e3:.0f}", *times])
    return _section(
        "How fast are default options on a slow link?",
        "`python benchmarks/exchange.py --front-end ddp --default-groups`",
        "Milliseconds of fp32 to average 2.56 million coordinates over Gloo, nothing computed meanwhile, and how many "
        "times as fast ours is: two shots of 4 and of 3 bits, and what `exchange='auto'` chose at 4 bits. Horovod's "
        "ranks find together before every collective, which costs what DDP's order saves.",
        _table(["front end", "link", "fp32, ms", "4 bits", "3 bits", "auto"], rows),
    )


def time_to_loss() -> str:
    """Answer with the time to the same loss."""
    found = _read("time-to-loss")
    rows = [
        [
            link["rate"],
            f"`{row['way']}`",
            f"{row['bytes_per_step'] / 1e3:,.0f}",
            f"{row['step_seconds'] * 1e3:.0f}",
            f"{row['curve'][-1]['loss']:.3f}",
            f"{row['times_as_fast']:.2f}",
        ]
        for link in found["links"]
        for row in link["rows"]
    ]
    training = found["training"]
    return _section(
        "Does training get to the same loss sooner?",
        "`python benchmarks/time_to_loss.py`",
        f"A language model of 2.65 million parameters under DDP, {training['ranks']} hosts, {training['steps']} steps "
        "from one seed: a beginning, not a result. Times as fast: to the validation loss that every way reaches. "
        "PowerSGD sends its first ten steps in float32, and in one bucket, as Gloo needs it.",
        _table(["link", "way", "kB a step", "ms a step", "last loss", "times as fast"], rows),
    )


def language_model() -> str:
    """Answer with loss against bytes, the seeds' noise, and PowerSGD at equal bytes."""
    found = _read("frontier-text")
    steps, seeds = found["training"]["steps"], found["training"]["seeds"]
    by_way = {row["way"]: row for row in found["rows"]}
    exact = by_way["fp32"]
    rows, within = [], []
    for row in sorted(found["rows"], key=lambda each: -each["bytes_per_step"]):
        lost = [own - other for own, other in zip(row["loss"], exact["loss"], strict=True)]
        error = statistics.stdev(lost) / len(lost) ** 0.5
        if statistics.mean(lost) <= 2 * error and row is not exact:
            within.append(row)
        rows.append([f"`{row['way']}`", f"{row['bytes_per_step'] / 1e3:,.0f}", f"{row['bits_per_coordinate']:.2f}",
                     f"{row['mean']:.3f} ± {row['standard_error']:.3f}",
                     "" if row is exact else f"{statistics.mean(lost):+.3f} ± {error:.3f}"])  # fmt: skip
    least = min(within, key=lambda row: float(row["bits_per_coordinate"]))
    verdict = (
        f"The fewest bytes within two standard errors of fp32 are those of `{least['way']}`: "
        f"{least['bits_per_coordinate']:.2f} bits a coordinate, all bytes counted. "
    )
    for way in ("eden:1:adaptive", "eden:0.75:adaptive"):
        more = by_way[way]["mean"] - exact["mean"]
        verdict += f"`{way}`, {by_way[way]['bits_per_coordinate']:.2f} bits, loses {more:.3f}. "
    goal = "met" if least["bits_per_coordinate"] <= 1 else "not met"
    verdict += f"The goal of at most one bit is {goal}. "
    for rank in (1, 4, 16):
        verdict += _beside_power_sgd(by_way[f"powersgd:{rank}"], exact, found["rows"], steps)
    return _section(
        "How few bytes train a language model?",
        "`python benchmarks/frontier.py --task text`",
        "The model of `examples/train_text.py`, 2.65 million parameters, under DDP: "
        f"{found['training']['ranks']} ranks, two shots, {steps} steps, {len(seeds)} seeds. "
        f"Validation loss, and the difference to fp32 from the same seed. {verdict.rstrip()}",
        _table(["way", "kB a step", "bits a coordinate", "loss", "minus fp32"], rows) + _picture("frontier-text"),
    )


def _beside_power_sgd(own: dict[str, Any], exact: dict[str, Any], rows: list[dict[str, Any]], steps: int) -> str:
    """Compare PowerSGD with ours at no more bytes: those of the whole run, and those without its start in float32."""
    begins = POWER_SGD_STARTS_AT
    later = (steps * own["bytes_per_step"] - begins * exact["bytes_per_step"]) / (steps - begins)
    words = [f"`{own['way']}`: {own['mean']:.3f}"]
    for sent, when in (
        (own["bytes_per_step"], f"at its {own['bytes_per_step'] / 1e3:,.0f} kB"),
        (later, f"at the {later / 1e3:,.0f} kB that it sends after {begins} steps in float32"),
    ):
        ours = [row for row in rows if row["bytes_per_step"] <= sent and not Way.parse(row["way"]).host]
        best = min(ours, key=lambda row: float(row["mean"]), default=None)
        words.append(f"ours {when}: " + (f"{best['mean']:.3f} (`{best['way']}`)" if best else "nothing so small"))
    return "; ".join(words) + ". "


def supersgd() -> str:
    """Answer with each contestant at its own learning rate."""
    found = _read("supersgd")
    training = found["training"]
    rows = [
        [row["arm"], str(row["workers"]), str(row["steps"]), f"{row['images']:,}", f"{row['rate']:g}",
         f"{row['mean']:.3f} ± {row['standard_error']:.3f}"]
        for row in found["rows"]
    ]  # fmt: skip
    edges = [row["arm"] for row in found["rows"] if row["rate"] in (min(training["rates"]), max(training["rates"]))]
    tuned = f" At the edge of the rates tried, so perhaps not tuned: {', '.join(edges)}." if edges else ""
    return _section(
        "SGD or SuperSGD, each tuned: are four workers worth their gradients?",
        "`python benchmarks/supersgd.py`",
        "SuperSGD averages the exact gradients of four workers. Every worker sees "
        f"{training['batch_a_worker']} images a step, so at equal steps four workers see four times as many. The "
        f"learning rate of each contestant is that of {', '.join(f'{rate:g}' for rate in training['rates'])} with the "
        f"least mean loss; validation loss of ResNet-8 on Fashion-MNIST, {len(training['seeds'])} seeds. Short "
        f"trainings: they rank the contestants, and say nothing about final accuracy.{tuned}",
        _table(["contestant", "workers", "steps", "images", "rate", "loss"], rows) + _picture("supersgd"),
    )


def robustness() -> str:
    """Answer with loss by batch size and momentum."""
    found = _read("robustness")
    training = found["training"]
    ways = list(dict.fromkeys(row["way"] for row in found["rows"]))
    settings = list(dict.fromkeys((row["batch"], row["momentum"]) for row in found["rows"]))
    rows, apart = [], []
    for batch, momentum in settings:
        own = {r["way"]: r for r in found["rows"] if (r["batch"], r["momentum"]) == (batch, momentum)}
        cells = [f"{own[way]['mean']:.3f} ± {own[way]['standard_error']:.3f}" for way in ways]
        rows.append([str(batch), f"{momentum:g}", *cells])
        for way in ways[1:]:
            lost = [ours - exact for ours, exact in zip(own[way]["loss"], own["fp32"]["loss"], strict=True)]
            if statistics.mean(lost) > 2 * statistics.stdev(lost) / len(lost) ** 0.5:
                apart.append(f"{way} at batch {batch} and momentum {momentum:g} ({statistics.mean(lost):+.3f})")
    verdict = f"Beyond two standard errors of the difference: {', '.join(apart)}." if apart else (
        "No difference to fp32 is beyond two of its standard errors."
    )  # fmt: skip
    return _section(
        "Do few bits need another momentum or batch size?",
        "`python benchmarks/robustness.py`",
        f"Validation loss of ResNet-8 on Fashion-MNIST after {training['steps']} steps of {training['ranks']} ranks, "
        f"{len(training['seeds'])} seeds; images are those of a rank and step. The learning rate starts at "
        f"{training['rate']:g} (1 - momentum) and is not tuned. {verdict}",
        _table(["images", "momentum", *(f"`{way}`" for way in ways)], rows) + _picture("robustness"),
    )


def missing() -> str:
    """Name what has not been measured."""
    return (
        "## What is missing\n\n"
        "* Training to the end: the comparisons above stop after a few hundred steps.\n"
        "* Anything on a GPU, on CIFAR or on ImageNet.\n"
    )


SECTIONS: tuple[Callable[[], str], ...] = (
    bytes_on_the_wire, accuracy, many_workers, one_shot_or_two, size_of_buckets, cost_of_buckets, lopsided_tables,
    ternary, adaptation,
    default_options, time_to_loss, language_model, supersgd, robustness, missing,
)  # fmt: skip


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(section() for section in SECTIONS)])


def main() -> int:
    """Write the page, or say whether it is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not up to date")
    args = parser.parse_args()
    made = page()
    if args.check:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == made:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is not what benchmarks/evidence.py makes: run it", file=sys.stderr)
        return 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * row['standard_error']:.2f} %"


def _section(question: str, command: str, text: str, table: str) -> str:
    return f"## {question}\n\n{text} ({command})\n\n{table}"


def _picture(name: str) -> str:
    return f"\n![{name}](../../benchmarks/results/{name}.png)\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


if __name__ == "__main__":
    raise SystemExit(main())
