"""Real gradients without a framework: a two-layer network in NumPy learns blurred, shifted prototypes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alq_hvd.quantiser.statistics import GradientStatistics

SIDE, HIDDEN, CLASSES, BATCH, STEPS = 16, 320, 10, 128, 60


@lru_cache(maxsize=1)
def real_gradient() -> npt.NDArray[np.float32]:
    """Return the flat gradient, float32[85_450], of one batch after 60 steps of SGD; it has exact zeros."""
    rng = np.random.default_rng(7)
    spectrum = np.add.outer(np.fft.fftfreq(SIDE) ** 2, np.fft.fftfreq(SIDE) ** 2)
    noise = rng.normal(size=(CLASSES, SIDE, SIDE))
    prototypes = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-60 * spectrum)).real
    prototypes = np.maximum(prototypes / prototypes.std(), 0)
    first = rng.normal(size=(SIDE * SIDE, HIDDEN)) * np.sqrt(2 / SIDE**2)
    second = rng.normal(size=(HIDDEN, CLASSES)) * np.sqrt(1 / HIDDEN)
    offset, shift = np.zeros(HIDDEN), np.zeros(CLASSES)
    flat = np.zeros(0)
    for _ in range(STEPS):
        labels = rng.integers(0, CLASSES, BATCH)
        moves = rng.integers(-2, 3, (BATCH, 2))
        images = np.stack([np.roll(prototypes[k], move, (0, 1)) for k, move in zip(labels, moves, strict=True)])
        inputs = (images * (images > 0.5)).reshape(BATCH, -1) + 0.1 * (rng.random((BATCH, SIDE * SIDE)) < 0.02)
        hidden = np.maximum(inputs @ first + offset, 0)
        scores = hidden @ second + shift
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = (chances / chances.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels]) / BATCH
        back = (error @ second.T) * (hidden > 0)
        gradients = (inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0))
        flat = np.concatenate([gradient.ravel() for gradient in gradients])
        for weight, gradient in zip((first, offset, second, shift), gradients, strict=True):
            weight -= 0.1 * gradient
    return flat.astype(np.float32)


def normalised(gradient: npt.NDArray[np.float32], bucket_size: int, norm: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (coordinates, norms) of the full buckets, and of the short last one when there is one."""
    whole = len(gradient) // bucket_size * bucket_size
    parts = [part for part in (gradient[:whole].reshape(-1, bucket_size), gradient[None, whole:]) if part.size]
    result = []
    for part in parts:
        exact = part.astype(np.float64)
        norms = np.sqrt((exact**2).sum(axis=1)) if norm == "l2" else np.abs(exact).max(axis=1)
        norms = norms.astype(np.float32)
        scale = np.where(norms == 0, 1, norms)[:, None]
        result.append((np.clip(part / scale, -1, 1).astype(np.float32), norms))
    return result


def statistics_of(
    gradient: npt.NDArray[np.float32], bucket_size: int, norm: str, weight_exponent: int = 2
) -> GradientStatistics:
    """Return the statistics of all buckets of a gradient."""
    total = GradientStatistics.empty(weight_exponent)
    for rows, norms in normalised(gradient, bucket_size, norm):
        complete = rows.shape[1] == bucket_size
        total += GradientStatistics.from_normalised(rows, norms, weight_exponent=weight_exponent, complete=complete)
    return total


def relative_variance(gradient: npt.NDArray[np.float32], bucket_size: int, norm: str, levels: np.ndarray) -> float:
    """Return E|Q(g) - g|^2 / |g|^2 exactly, from the raw coordinates."""
    table = np.asarray(levels, dtype=np.float64)
    error = 0.0
    for rows, norms in normalised(gradient, bucket_size, norm):
        wide = rows.astype(np.float64)
        inside = np.clip(wide, table[0], table[-1])
        high = np.clip(np.searchsorted(table, inside, side="right"), 1, len(table) - 1)
        variance = (table[high] - inside) * (inside - table[high - 1]) + (wide - inside) ** 2
        error += float((variance.sum(axis=1) * norms.astype(np.float64) ** 2).sum())
    return error / float((gradient.astype(np.float64) ** 2).sum())
