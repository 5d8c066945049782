"""Train a small language model on Python's own sources with Horovod or DDP, its gradients compressed.

    torchrun --standalone --nproc-per-node 2 examples/train_text.py --front-end ddp --compression eden --bits 2
    horovodrun -np 2 python examples/train_text.py --compression optimal --bits 4

What differs from stock training is marked (1) to (3); (2) is in ``images/front_ends.py``. ``compare_text.py`` compares
finished runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from images import front_ends, methods
from images.cores import share_cores
from images.front_ends import FrontEnd
from images.progress import Progress
from images.record import Record, digest
from images.timing import StepClock
from language.data import Text
from language.model import LENGTH, LanguageModel
from language.options import parse_options
from torch.nn.functional import cross_entropy

from alq_hvd.errors import ConfigurationError
from alq_hvd.run_record import write_json

VALIDATED = 32
"""Sequences."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training from the command line; return the exit status."""
    options = parse_options(methods.default_bits(), arguments)
    share_cores()
    front_end = front_ends.chosen(options)
    front_end.begin()
    ranks = front_end.communicator
    try:
        result = train(options, front_end)
    except ConfigurationError as error:  # for example bits at which the method is not defined
        if ranks.rank == 0:
            print(f"train_text.py: error: {error}", file=sys.stderr, flush=True)
        front_end.end()
        return 2
    if ranks.rank == 0:
        loss, sent = result["validation_loss"][-1][1], result["bytes_per_step"] / 1e3
        print(f"validation loss {loss:.3f}, {sent:,.0f} kB a step; result in {options.output}", flush=True)
    front_end.end()
    return 0


def train(options: argparse.Namespace, front_end: FrontEnd) -> dict[str, Any]:
    """Train, validate and record; return the result that rank 0 also writes to ``result.json``.

    Raises:
        ConfigurationError: the options do not fit the ranks, the text or each other.
    """
    ranks = front_end.communicator
    chief = ranks.rank == 0
    text = Text.load(options.tokens)
    if options.batch_size % ranks.size:
        raise ConfigurationError(
            f"--batch-size is of all ranks together: expected a multiple of {ranks.size}, got {options.batch_size}"
        )
    if min(text.training_starts(LENGTH), len(text.words) - text.cut - LENGTH - 1) < 1:
        raise ConfigurationError(f"--tokens: expected text for sequences of {LENGTH}, got {len(text.words)} words")

    torch.manual_seed(options.seed)
    model = LanguageModel()
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=2e-3)
    compression = methods.build(options, model, front_end)  # (1) e.g. alq_hvd.Compression.eden(bits=1, ...)
    computes, optimizer, _ = front_end.prepare(model, optimizer, compression, lambda optimizer: None)
    world = front_end.world()
    meter = methods.Meter(options.compression, compression, model, front_end)  # (3) to see inside
    clock = StepClock(meter.codec_seconds, reduces_in_backward=front_end.reduces_in_backward)
    record = Record(options.output) if chief else None
    progress = Progress(options.steps, options.label, options.progress if chief else "none")
    if record is not None:
        record.write("start", label=options.label, total_steps=options.steps)
    losses: list[tuple[int, float]] = []
    accuracy: list[tuple[float, float]] = []
    variance: list[tuple[int, float]] = []
    began = time.perf_counter()
    for step in range(1, options.steps + 1):
        words, following = text.rows(starts(options, text, step)[ranks.rank :: ranks.size], LENGTH)
        with clock.step():
            optimizer.zero_grad()
            loss = cross_entropy(computes(words).flatten(0, 1), following.flatten())
            loss.backward()
            meter.look_at_gradients(step - 1, options.log_every)
            with clock.exchange():
                synchronised = front_end.synchronize(optimizer)
            with synchronised:
                optimizer.step()
        if step % options.validate_every == 0 or step == options.steps:
            # Weights are the same on all ranks, and so is what they validate on: nothing is exchanged.
            found, right = validate(model, text)
            losses.append((step, found))
            accuracy.append((step * options.batch_size * LENGTH / text.cut, right))
            if chief:
                progress.say(f"step {step}: validation loss {found:.3f}")
        if record is not None and (step % options.log_every == 0 or step == options.steps):
            now = meter.read()
            for event in meter.new_adaptations():
                record.write("adaptation", **event)
            if now.relative_variance is not None:
                variance.append(((step - 1) // options.log_every * options.log_every, now.relative_variance))
            values = {"loss": loss.item(), **now.as_scalars()}
            record.write("step", step=step, **values, seconds=clock.last)
            record.scalars(step, **values)
            progress.update(step, f"loss {values['loss']:.3f}")
    train_seconds = time.perf_counter() - began
    progress.close()

    final = digest(model.state_dict())
    write_json(options.output / f"rank-{ranks.rank}.json", {"rank": ranks.rank, "weights_sha256": final})
    result = {
        **{name: value for name, value in vars(options).items() if isinstance(value, (int, float, str))},
        "bits": getattr(getattr(compression, "options", None), "plain_bits", None),
        "model": "language model",
        "dataset": "sources of Python's standard library",
        "examples": text.cut // LENGTH,
        "world_size": ranks.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_per_step": clock.per_step(),
        "train_seconds": train_seconds,
        "validation_loss": losses,
        "accuracy": accuracy,
        "variance": variance,
        "weights_sha256": final,
        **world,
        **meter.summary(),
    }
    if record is not None:
        record.close(result)
    return result


def starts(options: argparse.Namespace, text: Text, step: int) -> list[int]:
    """Return where the sequences of a step begin, those of all ranks: they depend on seed and step alone."""
    places = np.random.default_rng((options.seed, step))
    return [int(place) for place in places.integers(text.training_starts(LENGTH), size=options.batch_size)]


def validate(model: torch.nn.Module, text: Text) -> tuple[float, float]:
    """Return loss and share of words foretold on what is not trained on."""
    words, following = text.rows(text.validation_starts(VALIDATED, LENGTH), LENGTH)
    with torch.no_grad():
        scores, truth = model(words).flatten(0, 1), following.flatten()
        return float(cross_entropy(scores, truth)), float((scores.argmax(dim=1) == truth).float().mean())


if __name__ == "__main__":
    sys.exit(main())
