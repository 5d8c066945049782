"""Train a small ResNet on real images with Horovod or DDP, its gradients compressed by the method of your choice.

    horovodrun -np 4 python examples/train_images.py --compression alq --bits 3
    torchrun --standalone --nproc-per-node 4 examples/train_images.py --front-end ddp --compression alq --bits 3

The places that differ from stock training are marked (1) to (4); (2) is in ``images/front_ends.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from images import front_ends, methods
from images.cores import share_cores
from images.data import DataError, Images, load_images
from images.evaluation import average_statistics, evaluate
from images.front_ends import FrontEnd
from images.model import ResNet8
from images.options import parse_options
from images.position import Position, Saver
from images.progress import Progress
from images.record import Record, digest
from images.timing import StepClock
from torch.nn import functional

from alq_hvd.checkpoint import PREEMPTED_STATUS, PreemptionGuard
from alq_hvd.communicator.base import Communicator
from alq_hvd.errors import CheckpointError, ConfigurationError, StateError
from alq_hvd.run_record import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training from the command line; return the exit status."""
    options = parse_options(methods.default_bits(), arguments)
    share_cores()
    front_end = front_ends.chosen(options)
    with front_end.guard() if options.checkpoint else nullcontext() as guard:
        return run(options, front_end, guard)


def run(options: argparse.Namespace, front_end: FrontEnd, guard: PreemptionGuard | None) -> int:
    """Load the data, train and say how it went; return the exit status."""
    front_end.begin()
    ranks = front_end.communicator
    chief = ranks.rank == 0

    def fail(message: str) -> int:
        """Say on rank 0 why this cannot run; return the exit status for bad input."""
        if chief:
            print(f"train_images.py: error: {message}", file=sys.stderr, flush=True)
        front_end.end()
        return 2

    if options.batch_size % ranks.size:
        return fail(
            f"--batch-size is of all ranks together: expected a multiple of {ranks.size}, got {options.batch_size}"
        )
    try:
        images = load_images(options.data, options.train_images, options.test_images)
    except DataError as error:
        return fail(str(error))
    if len(images.train_labels) < options.batch_size:
        return fail(f"expected at least one batch of {options.batch_size}, got {len(images.train_labels)} images")
    try:
        result = train(options, images, front_end, guard)
    # For example: a number of bits at which the method is not defined, a checkpoint of other options.
    except (ConfigurationError, CheckpointError, StateError) as error:
        return fail(str(error))
    if chief and result is None:
        print(f"stopped on a signal; the same command goes on from {options.checkpoint}", flush=True)
    elif chief and result is not None:
        print(f"test accuracy {result['test_accuracy']:.4f}; result in {options.output}", flush=True)
    front_end.end()
    return PREEMPTED_STATUS if result is None else 0


def train(
    options: argparse.Namespace, images: Images, front_end: FrontEnd, guard: PreemptionGuard | None
) -> dict[str, Any] | None:
    """Train, record and evaluate; return the result that rank 0 also writes to ``result.json``.

    ``None`` when a signal asked to stop: the checkpoint is written, and the same command goes on from there.
    """
    torch.manual_seed(options.seed)
    model, ranks = ResNet8(), front_end.communicator

    steps_per_epoch = len(images.train_labels) // options.batch_size
    total_steps = options.epochs * steps_per_epoch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    compression = methods.build(options, model, front_end)  # (1) e.g. alq_hvd.Compression.alq(bits=3, ...)

    def quantise(wrapped: Any) -> Any:
        return methods.quantise_weights(options.weights, model, wrapped, front_end)  # (4) with --weights alone

    computes, optimizer, weights = front_end.prepare(model, optimizer, compression, quantise)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total_steps)

    world = front_end.world()
    saver = Saver(options, model, optimizer, schedule, compression, ranks, weights)
    at = saver.restore()
    meter = methods.Meter(options.compression, compression, model, front_end, at.adapted_at)  # (3) to see inside
    clock = StepClock(meter.codec_seconds, at.step, at.seconds, reduces_in_backward=front_end.reduces_in_backward)
    chief = ranks.rank == 0
    record = Record(options.output, (at.step, at.lines) if at.resumed else None) if chief else None
    progress = Progress(total_steps, options.label, options.progress if chief else "none")
    if record is not None:
        if images.note:
            progress.say(images.note)
        if at.resumed:
            progress.say(f"going on after step {at.step} of {total_steps}")
            progress.update(at.step)
            record.write("resume", step=at.step)
        else:
            record.write("start", label=options.label, total_steps=total_steps, note=images.note, dataset=images.name)

    def save() -> None:
        at.seconds, at.train_seconds = dict(clock.total), time.perf_counter() - began
        at.lines, at.adapted_at = record.size if record is not None else 0, meter.adapted_at
        saver.save(at)

    began = time.perf_counter() - at.train_seconds
    while at.epoch <= options.epochs:
        model.train()
        for pixels, labels in batches(images, options, at, ranks):
            with clock.step():
                optimizer.zero_grad()
                loss = functional.cross_entropy(computes(pixels), labels)
                loss.backward()
                meter.look_at_gradients(at.step, options.log_every)
                with clock.exchange():
                    synchronised = front_end.synchronize(optimizer)
                with synchronised:
                    optimizer.step()
                schedule.step()
            at.step, at.batch = at.step + 1, at.batch + 1
            if record is not None and (at.step % options.log_every == 0 or at.step == total_steps):
                now = meter.read()
                for event in meter.new_adaptations():
                    record.write("adaptation", **event)
                if now.relative_variance is not None:
                    # The latest measurement is of the step that began this stretch of the log.
                    at.variance.append(((at.step - 1) // options.log_every * options.log_every, now.relative_variance))
                values = {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0]), **now.as_scalars()}
                record.write("step", step=at.step, epoch=at.epoch, **values, seconds=clock.last)
                record.scalars(at.step, **values)
                progress.update(at.step, f"loss {values['loss']:.3f}")
            if guard is not None and guard.stop_agreed():
                save()
                progress.close()
                return None
            if saver.due(at):
                save()
        average_statistics(model, ranks)
        at.accuracy.append((at.epoch, evaluate(model, images, ranks)))
        if record is not None:
            record.write("epoch", epoch=at.epoch, step=at.step, test_accuracy=at.accuracy[-1][1])
            record.scalars(at.step, test_accuracy=at.accuracy[-1][1])
        at.epoch, at.batch = at.epoch + 1, 0
    train_seconds = time.perf_counter() - began
    progress.close()

    final = digest(model.state_dict())
    mine = {"rank": ranks.rank, "weights_sha256": final, "seconds_per_step": clock.per_step()}
    write_json(options.output / f"rank-{ranks.rank}.json", mine)
    result = {
        **{name: value for name, value in vars(options).items() if isinstance(value, (int, float, str))},
        "bits": getattr(getattr(compression, "options", None), "plain_bits", None),
        "model": "ResNet-8",
        "dataset": images.name,
        "examples": len(images.train_labels),
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
        "world_size": ranks.size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": at.step,
        "started": at.started,
        "resumed": at.resumed,
        "test_accuracy": at.accuracy[-1][1],
        "accuracy": at.accuracy,
        "variance": at.variance,
        "seconds_per_step": clock.per_step(),
        "train_seconds": train_seconds,
        "weights_sha256": final,
        **world,
        **meter.summary(),
    }
    if record is not None:
        record.close(result)
    return result


def batches(
    images: Images, options: argparse.Namespace, at: Position, ranks: Communicator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this rank's share of every batch still to do, in an order that depends on seed and epoch alone."""
    order = np.random.default_rng((options.seed, at.epoch)).permutation(len(images.train_labels))
    for start in range(at.batch * options.batch_size, len(order) - options.batch_size + 1, options.batch_size):
        rows = torch.from_numpy(order[start : start + options.batch_size][ranks.rank :: ranks.size])
        yield images.train_images[rows], images.train_labels[rows]


if __name__ == "__main__":
    sys.exit(main())
