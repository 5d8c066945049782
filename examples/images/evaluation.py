"""The accuracy of a model that was trained on several ranks."""

from __future__ import annotations

import horovod.torch as hvd
import torch

from images.data import Images


def average_statistics(model: torch.nn.Module) -> None:
    """Replace BatchNorm's running mean and variance, which differ between ranks, by their mean over the ranks.

    An all-gather and a mean, not an allreduce: Horovod may add up in another order in another run.
    """
    norms = ("running_mean", "running_var")  # and not the scales of quantised weights, which are equal everywhere
    buffers = [buffer for name, buffer in model.named_buffers() if name.endswith(norms)]
    own = torch.cat([buffer.flatten() for buffer in buffers])
    means = hvd.allgather(own[None], name="statistics").mean(dim=0)
    for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


@torch.inference_mode()
def evaluate(model: torch.nn.Module, images: Images) -> float:
    """Return the accuracy on the test set, of which every rank looks at its share."""
    model.eval()
    pixels, labels = images.test_images[hvd.rank() :: hvd.size()], images.test_labels[hvd.rank() :: hvd.size()]
    chunks = zip(pixels.split(250), labels.split(250), strict=True)
    correct = sum(int((model(some).argmax(dim=1) == truth).sum()) for some, truth in chunks)
    total = hvd.allreduce(torch.tensor([float(correct)], dtype=torch.float64), name="correct", op=hvd.Sum)
    return float(total) / len(images.test_labels)
