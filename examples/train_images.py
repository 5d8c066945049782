"""Train a small ResNet on real images with Horovod, its gradients compressed by the method of your choice.

    horovodrun -np 4 python examples/train_images.py --compression alq --bits 3

The three places that differ from stock Horovod training are marked (1), (2), (3).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from images import methods
from images.cores import share_cores
from images.data import DataError, Images, load_images
from images.model import ResNet8
from images.options import parse_options
from images.progress import Progress
from images.record import Record, digest, write_json
from images.timing import StepClock
from torch.nn import functional

from alq_hvd.errors import ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training from the command line; return the exit status."""
    options = parse_options(methods.default_bits(), arguments)
    share_cores()
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
        result = train(options, images)
    except ConfigurationError as error:  # for example, a number of bits at which the method is not defined
        return fail(str(error))
    if hvd.rank() == 0:
        print(f"test accuracy {result['test_accuracy']:.4f}; result in {options.output}", flush=True)
    hvd.shutdown()
    return 0


def fail(message: str) -> int:
    """Say on rank 0 why this can not run; return the exit status for bad input."""
    if hvd.rank() == 0:
        print(f"train_images.py: error: {message}", file=sys.stderr, flush=True)
    hvd.shutdown()
    return 2


def train(options: argparse.Namespace, images: Images) -> dict[str, Any]:
    """Train, record and evaluate; return the result that rank 0 also writes to ``result.json``."""
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total_steps)

    meter = methods.Meter(options.compression, compression, model)  # (3) only to show what happens inside
    clock = StepClock(meter.codec_seconds)
    chief = hvd.rank() == 0
    record = Record(options.output) if chief else None
    progress = Progress(total_steps, options.label, options.progress if chief else "none")
    if record is not None:
        if images.note:
            progress.say(images.note)
        record.write("start", label=options.label, total_steps=total_steps, note=images.note, dataset=images.name)

    accuracy: list[tuple[int, float]] = []
    variance: list[tuple[int, float]] = []
    began = time.perf_counter()
    step = 0
    for epoch in range(1, options.epochs + 1):
        model.train()
        for pixels, labels in batches(images, options, epoch):
            with clock.step():
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(pixels), labels)
                loss.backward()
                meter.look_at_gradients(step, options.log_every)
                # step() would synchronise by itself: it is done apart here only to measure it apart.
                with clock.exchange():
                    optimizer.synchronize()
                with optimizer.skip_synchronize():
                    optimizer.step()
                schedule.step()
            step += 1
            if record is not None and (step % options.log_every == 0 or step == total_steps):
                now = meter.read()
                for event in meter.new_adaptations():
                    record.write("adaptation", **event)
                if now.relative_variance is not None:
                    # The latest measurement is of the step that began this stretch of the log.
                    variance.append(((step - 1) // options.log_every * options.log_every, now.relative_variance))
                values = {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0]), **now.as_scalars()}
                record.write("step", step=step, epoch=epoch, **values, seconds=clock.last)
                record.scalars(step, **values)
                progress.update(step, f"loss {values['loss']:.3f}")
        average_statistics(model)
        accuracy.append((epoch, evaluate(model, images)))
        if record is not None:
            record.write("epoch", epoch=epoch, step=step, test_accuracy=accuracy[-1][1])
            record.scalars(step, test_accuracy=accuracy[-1][1])
    train_seconds = time.perf_counter() - began
    progress.close()

    weights = digest(model.state_dict())
    mine = {"rank": hvd.rank(), "weights_sha256": weights, "seconds_per_step": clock.per_step()}
    write_json(options.output / f"rank-{hvd.rank()}.json", mine)
    result = {
        **{name: value for name, value in vars(options).items() if isinstance(value, (int, float, str))},
        "dataset": images.name,
        "train_images": len(images.train_labels),
        "test_images": len(images.test_labels),
        "world_size": hvd.size(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": step,
        "test_accuracy": accuracy[-1][1],
        "accuracy": accuracy,
        "variance": variance,
        "seconds_per_step": clock.per_step(),
        "train_seconds": train_seconds,
        "weights_sha256": weights,
        **meter.summary(),
    }
    if record is not None:
        record.close(result)
    return result


def batches(images: Images, options: argparse.Namespace, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this rank's share of every batch, in an order that depends on the seed and the epoch alone."""
    order = np.random.default_rng((options.seed, epoch)).permutation(len(images.train_labels))
    for start in range(0, len(order) - options.batch_size + 1, options.batch_size):
        rows = torch.from_numpy(order[start : start + options.batch_size][hvd.rank() :: hvd.size()])
        yield images.train_images[rows], images.train_labels[rows]


def average_statistics(model: torch.nn.Module) -> None:
    """Replace BatchNorm's running mean and variance, which differ between ranks, by their mean over the ranks."""
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            hvd.allreduce_(buffer, name=f"statistics.{name}")


@torch.inference_mode()
def evaluate(model: torch.nn.Module, images: Images) -> float:
    """Return the accuracy on the test set, of which every rank looks at its share."""
    model.eval()
    pixels, labels = images.test_images[hvd.rank() :: hvd.size()], images.test_labels[hvd.rank() :: hvd.size()]
    chunks = zip(pixels.split(250), labels.split(250), strict=True)
    correct = sum(int((model(some).argmax(dim=1) == truth).sum()) for some, truth in chunks)
    total = hvd.allreduce(torch.tensor([float(correct)], dtype=torch.float64), name="correct", op=hvd.Sum)
    return float(total) / len(images.test_labels)


if __name__ == "__main__":
    sys.exit(main())
