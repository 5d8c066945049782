"""The accuracy of a model that was trained on several ranks."""

from __future__ import annotations

import numpy as np
import torch

from alq_hvd.communicator.base import Communicator
from images.data import Images


def average_statistics(model: torch.nn.Module, ranks: Communicator) -> None:
    """Replace BatchNorm's running mean and variance, which differ between ranks, by their mean over the ranks.

    An all-gather and a mean, not an allreduce: a host may add up in another order in another run.
    """
    norms = ("running_mean", "running_var")  # and not the scales of quantised weights, which are equal everywhere
    buffers = [buffer for name, buffer in model.named_buffers() if name.endswith(norms)]
    own = torch.cat([buffer.flatten() for buffer in buffers]).numpy()
    everyone = [raw.view(np.float32) for raw in ranks.allgather(own.view(np.uint8), "statistics").wait()]
    means = torch.from_numpy(np.stack(everyone)).mean(dim=0)
    for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def evaluate(model: torch.nn.Module, images: Images, ranks: Communicator) -> float:
    """Return the accuracy on the test set, of which every rank looks at its share."""
    model.eval()
    pixels, labels = (part[ranks.rank :: ranks.size] for part in (images.test_images, images.test_labels))
    chunks = zip(pixels.split(250), labels.split(250), strict=True)
    with torch.inference_mode():
        correct = sum(int((model(some).argmax(dim=1) == truth).sum()) for some, truth in chunks)
    counts = ranks.allgather(np.array([correct], dtype=np.int64).view(np.uint8), "correct").wait()
    return sum(int(count.view(np.int64)[0]) for count in counts) / len(images.test_labels)
