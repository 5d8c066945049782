"""Train from the same start with several compressions, and compare: what ``make demo`` runs.

First a small network on images, with fp32, fp16, ALQ at 3 bits and EDEN at 2; then, for a few steps, a language model
with fp32 and EDEN at a mean of 1 bit. Each run is one ``horovodrun -np 4 python examples/train_images.py ...``, or
``train_text.py``, that you can copy and start by hand; with ``--front-end ddp`` it is one ``torchrun ...``.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    import compare_text
    from images.follow import Follower
    from images.launch import FRONT_ENDS, LaunchError, launcher, run_on_ranks
    from images.options import natural, positive, width
    from images.report import Result, table

    from alq_hvd.run_record import RESULT_FILE, STEPS_FILE, write_json
except ModuleNotFoundError as missing:
    sys.exit(f"demo.py: error: {missing} in {sys.prefix}: run 'make demo', or 'make setup' and then .venv/bin/python")

TRAIN_IMAGES = Path(__file__).with_name("train_images.py")
TRAIN_TEXT = Path(__file__).with_name("train_text.py")
RUNS = ("fp32", "fp16", "alq:3", "eden:2")
TEXT_RUNS = ("fp32", "eden:1:adaptive")
RUN_FORM = "METHOD[:BITS[:rotate][:feedback][:adaptive]][:WEIGHTS]"
"""How a training is named on the command line."""
FLAGS = ("rotate", "feedback", "adaptive")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all trainings, print the table, draw the picture; return the exit status."""
    options = parse_options(arguments)
    # Being terminated ends the ranks as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        launcher(options.front_end, options.np)  # says at once what is missing
        results = [train(on_images(run, options), options, place) for place, run in enumerate(options.runs, start=1)]
        texts = [
            train(on_text(run, options), options, place)
            for place, run in enumerate(options.text_runs, start=1 + len(options.runs))
        ]
    except LaunchError as error:
        print(f"demo.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo.py: interrupted; all ranks are stopped", file=sys.stderr)
        return 130
    print(f"\n{table(results)}\n")
    write_json(options.output / "comparison.json", {"results": results})
    from images.picture import draw  # here, because matplotlib takes a second to import

    picture = draw(results, options.output / "comparison.png")
    print(f"records: {options.output.resolve()}  (tensorboard --logdir {shlex.quote(str(options.output))})")
    print(f"picture: {picture.resolve()}")
    print(f"as an HTML page: {sys.executable} -m alq_hvd report {shlex.quote(str(options.output))}")
    if texts:
        compared = options.output / "text" / "comparison.png"
        print(f"\nLanguage model, {options.text_steps} steps:\n\n{compare_text.table(texts)}")
        compare_text.draw(texts, compared)
        print(f"picture: {compared.resolve()}")
    print(f"the whole demo took {time.monotonic() - began:.0f} s")
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of the demo."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description="Train a small ResNet on Fashion-MNIST with several gradient compressions from the same start, "
        "then a small language model for a few steps, and compare each in one table and one picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--front-end", choices=FRONT_ENDS, default="horovod", help="what averages the gradients")
    parser.add_argument("--np", type=positive, default=4, help="number of ranks; more than cores is fine")
    parser.add_argument(
        "--runs",
        type=run,
        nargs="+",
        default=[run(name) for name in RUNS],
        metavar=RUN_FORM,
        help="what to compare, for example: fp32 alq:3 optimal:2:rotate eden:2:feedback alq:3:laq3 fp32:lab",
    )
    parser.add_argument(
        "--text-runs",
        type=run,
        nargs="*",
        default=[run(name) for name in TEXT_RUNS],
        metavar=RUN_FORM,
        help="the same for the language model; none: leave it out",
    )
    parser.add_argument("--text-steps", type=positive, default=40, help="steps of the language model")
    parser.add_argument("--train-images", type=positive, default=12_000, help="training images")
    parser.add_argument("--test-images", type=positive, help="test images (default: all)")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over them")
    parser.add_argument("--batch-size", type=positive, default=128, help="images a step, of all ranks together")
    parser.add_argument("--bucket-size", type=positive, default=1024, help="coordinates that share one norm")
    parser.add_argument(
        "--adapt-at",
        type=natural,
        nargs="+",
        default=[0, 50, 200],
        metavar="STEP",
        help="steps at which the levels are refitted",
    )
    parser.add_argument("--seed", type=natural, default=0, help="the same for every run")
    parser.add_argument("--timeout", type=positive, default=900, help="seconds after which one run is stopped")
    parser.add_argument("--output", type=Path, default=Path("runs") / "demo", help="folder for records and picture")
    return parser.parse_args(arguments)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Name one training of the comparison."""

    method: str
    bits: int | float | None
    rotate: bool = False
    feedback: bool = False
    adaptive: bool = False
    weights: str | None = None

    @property
    def label(self) -> str:
        described = self.method if self.bits is None else f"{self.method} {self.bits} bits"
        described += " rotated" * self.rotate + " feedback" * self.feedback + " adaptive" * self.adaptive
        return described + (f" weights {self.weights}" if self.weights else "")

    @property
    def arguments(self) -> list[str]:
        bits = [] if self.bits is None else ["--bits", str(self.bits)]
        how = ["--rotate"] * self.rotate + ["--error-feedback"] * self.feedback
        how += ["--widths", "adaptive"] * self.adaptive
        weights = ["--weights", self.weights] if self.weights else []
        return ["--compression", self.method, *bits, *how, *weights]


def run(text: str) -> Run:
    """Read ``RUN_FORM``; method and scheme themselves are checked by the training."""
    flags = "".join(f"(?P<{flag}>:{flag})?" for flag in FLAGS)
    found = re.fullmatch(rf"(?P<method>\w+)(:(?P<bits>\d+(\.\d+)?){flags})?(:(?P<weights>[a-z]\w*))?", text)
    if found is None or found["weights"] in FLAGS:
        raise argparse.ArgumentTypeError(f"expected {RUN_FORM}, got {text!r}")
    bits = None if found["bits"] is None else width(found["bits"])
    return Run(found["method"], bits, **{flag: bool(found[flag]) for flag in FLAGS}, weights=found["weights"])


@dataclass(frozen=True)
class Training:
    """Hold one run: its label, the program with its arguments, and the folder of its records."""

    label: str
    program: list[str]
    output: Path


def on_images(one: Run, options: argparse.Namespace) -> Training:
    """Return the training of the network on images."""
    program = [str(TRAIN_IMAGES), *one.arguments, "--adapt-at", *map(str, options.adapt_at)]
    for name in ("train_images", "test_images", "epochs", "batch_size", "bucket_size", "seed"):
        if (value := getattr(options, name)) is not None:
            program += [f"--{name.replace('_', '-')}", str(value)]
    return Training(one.label, program, options.output / one.label.replace(" ", "-"))


def on_text(one: Run, options: argparse.Namespace) -> Training:
    """Return the training of the language model."""
    steps = ["--steps", str(options.text_steps), "--validate-every", str(max(options.text_steps // 4, 1))]
    program = [str(TRAIN_TEXT), *one.arguments, *steps, "--seed", str(options.seed)]
    # Sequences are dealt out evenly: the default, or as many more as that takes.
    program += ["--batch-size", str(options.np * max(16 // options.np, 1))]
    return Training(one.label, program, options.output / "text" / one.label.replace(" ", "-"))


def train(one: Training, options: argparse.Namespace, place: int) -> Result:
    """Start one training, show its progress, and return its result."""
    output = one.output
    program = [*one.program, "--label", one.label, "--output", str(output), "--no-progress"]
    if options.front_end != "horovod":
        program += ["--front-end", options.front_end]
    starts = {
        "horovod": f"horovodrun -np {options.np} python",
        "ddp": f"torchrun --standalone --nproc-per-node {options.np}",
    }
    count = len(options.runs) + len(options.text_runs)
    print(f"[{place}/{count}] {starts[options.front_end]} {shlex.join(program)}", flush=True)
    # A left-over record of an earlier demo must not be taken for this run's.
    (output / STEPS_FILE).unlink(missing_ok=True)
    (output / RESULT_FILE).unlink(missing_ok=True)
    follower = Follower(output / STEPS_FILE, one.label)
    try:
        log = output / "log.txt"
        run_on_ranks(options.np, program, log, options.timeout, follower.poll, follower.say, options.front_end)
    finally:
        follower.close()
    try:
        result: Result = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"{one.label}: ended without a result in {output}; see {output / 'log.txt'}") from None
    return result


if __name__ == "__main__":
    sys.exit(main())
