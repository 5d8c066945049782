"""Train a small ResNet on real images with Horovod, its gradients compressed by the method of your choice.

    horovodrun -np 4 python examples/train_images.py --compression alq --bits 3

The places that differ from stock Horovod training are marked (1) to (4).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from images import methods
from images.cores import share_cores
from images.data import DataError, Images, load_images
from images.evaluation import average_statistics, evaluate
from images.model import ResNet8
from images.options import parse_options
from images.position import Position, Saver
from images.progress import Progress
from images.record import Record, digest
from images.timing import StepClock
from torch.nn import functional

from alq_hvd.checkpoint import PREEMPTED_STATUS, PreemptionGuard
from alq_hvd.errors import CheckpointError, ConfigurationError, StateError
from alq_hvd.run_record import describe_world, write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training from the command line; return the exit status."""
    options = parse_options(methods.default_bits(), arguments)
    share_cores()
    # From before the first collective: a signal that comes early must wait for a step boundary, not kill a rank.
    with PreemptionGuard() if options.checkpoint else nullcontext() as guard:
        return run(options, guard)


def run(options: argparse.Namespace, guard: PreemptionGuard | None) -> int:
    """Load the data, train and say how it went; return the exit status."""
    hvd.init()
    if options.batch_size % hvd.size():
        return fail(
            f"--batch-size is of all ranks together: expected a multiple of {hvd.size()}, got {options.batch_size}"
        )
    try:
        images = load_images(options.data, options.train_images, options.test_images)
    except DataError as error:
        return fail(str(error))
    if len(images.train_labels) < options.batch_size:
        return fail(f"expected at least one batch of {options.batch_size}, got {len(images.train_labels)} images")
    try:
        result = train(options, images, guard)
    # For example: a number of bits at which the method is not defined, a checkpoint of other options.
    except (ConfigurationError, CheckpointError, StateError) as error:
        return fail(str(error))
    if hvd.rank() == 0 and result is None:
        print(f"stopped on a signal; the same command goes on from {options.checkpoint}", flush=True)
    elif hvd.rank() == 0 and result is not None:
        print(f"test accuracy {result['test_accuracy']:.4f}; result in {options.output}", flush=True)
    hvd.shutdown()
    return PREEMPTED_STATUS if result is None else 0


def fail(message: str) -> int:
    """Say on rank 0 why this cannot run; return the exit status for bad input."""
    if hvd.rank() == 0:
        print(f"train_images.py: error: {message}", file=sys.stderr, flush=True)
    hvd.shutdown()
    return 2


def train(options: argparse.Namespace, images: Images, guard: PreemptionGuard | None) -> dict[str, Any] | None:
    """Train, record and evaluate; return the result that rank 0 also writes to ``result.json``.

    ``None`` when a signal asked to stop: the checkpoint is written, and the same command goes on from there.
    """
    torch.manual_seed(options.seed)
    model = ResNet8()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    steps_per_epoch = len(images.train_labels) // options.batch_size
    total_steps = options.epochs * steps_per_epoch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    compression = methods.build(options, model)  # (1) e.g. alq_hvd.Compression.alq(bits=3, named_parameters=...)
    optimizer = hvd.DistributedOptimizer(
        optimizer,
        named_parameters=model.named_parameters(),
        compression=compression,  # (2) Horovod's own keyword
    )
    weights = methods.quantise_weights(options.weights, model, optimizer)  # (4) alq_hvd.weights, with --weights alone
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total_steps)

    world = describe_world()
    saver = Saver(options, model, optimizer, schedule, compression, weights)
    at = saver.restore()
    meter = methods.Meter(options.compression, compression, model, at.adapted_at)  # (3) to show what happens inside
    clock = StepClock(meter.codec_seconds, at.step, at.seconds)
    chief = hvd.rank() == 0
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
        for pixels, labels in batches(images, options, at):
            with clock.step():
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(pixels), labels)
                loss.backward()
                meter.look_at_gradients(at.step, options.log_every)
                # step() would synchronise by itself: it is done apart here only to measure it apart.
                with clock.exchange():
                    optimizer.synchronize()
                with optimizer.skip_synchronize():
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
        average_statistics(model)
        at.accuracy.append((at.epoch, evaluate(model, images)))
        if record is not None:
            record.write("epoch", epoch=at.epoch, step=at.step, test_accuracy=at.accuracy[-1][1])
            record.scalars(at.step, test_accuracy=at.accuracy[-1][1])
        at.epoch, at.batch = at.epoch + 1, 0
    train_seconds = time.perf_counter() - began
    progress.close()

    final = digest(model.state_dict())
    mine = {"rank": hvd.rank(), "weights_sha256": final, "seconds_per_step": clock.per_step()}
    write_json(options.output / f"rank-{hvd.rank()}.json", mine)
    result = {
        **{name: value for name, value in vars(options).items() if isinstance(value, (int, float, str))},
        "bits": getattr(getattr(compression, "options", None), "plain_bits", None),
        "model": "ResNet-8",
        "dataset": images.name,
        "examples": len(images.train_labels),
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
        "world_size": hvd.size(),
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


def batches(images: Images, options: argparse.Namespace, at: Position) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this rank's share of every batch still to do, in an order that depends on seed and epoch alone."""
    order = np.random.default_rng((options.seed, at.epoch)).permutation(len(images.train_labels))
    for start in range(at.batch * options.batch_size, len(order) - options.batch_size + 1, options.batch_size):
        rows = torch.from_numpy(order[start : start + options.batch_size][hvd.rank() :: hvd.size()])
        yield images.train_images[rows], images.train_labels[rows]


if __name__ == "__main__":
    sys.exit(main())
