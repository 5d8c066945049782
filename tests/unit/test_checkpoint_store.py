"""A checkpoint is on disk whole or not at all, and a damaged one costs no more than the steps since the one before."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alq_hvd.checkpoint.store import CheckpointStore
from alq_hvd.errors import CheckpointError, ConfigurationError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_comes_back_and_the_oldest_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "new" / "run", keep=2)
    assert store.newest() is None
    for step in (9, 10, 1_000_000_000):
        store.write(step, b"payload %d" % step)
    assert names(store.directory) == ["step-000000010.ckpt", "step-1000000000.ckpt"]
    found = store.newest()
    assert found is not None
    assert (found.step, found.payload) == (1_000_000_000, b"payload 1000000000")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: b"", "expected a header of 48 bytes, got 0 bytes"),
        (lambda content: content[:20], "expected a header of 48 bytes, got 20 bytes"),
        (lambda content: content[:-1], "expected 7 bytes after the header, got 6"),
        (lambda content: content + b"x", "expected 7 bytes after the header, got 8"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its sha256 does not fit its content"),
        (lambda content: b"PK" + content[2:], "expected it to begin with b'ALQCKPT1'"),
    ],
)
def test_a_damaged_one_is_named_set_aside_and_the_previous_one_used(
    damage, complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    store.write(1, b"first..")
    newest = store.write(2, b"second.")
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = store.newest()
    assert found is not None and (found.step, found.payload) == (1, b"first..")
    assert complaint in caplog.text
    assert str(newest) in caplog.text and f"going on from {found.path}" in caplog.text
    store.write(3, b"third..")
    # The damaged one does not count as one of those to keep, and stays for whoever wants to look at it.
    assert names(tmp_path) == ["step-000000001.ckpt", "step-000000002.damaged", "step-000000003.ckpt"]


def test_nothing_whole_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(1, b"first").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected at least one whole checkpoint .* Give another directory"):
        store.newest()


def refuse(error: int) -> Callable[..., None]:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    return refused


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("refused", ["open", "fsync", "replace", "mkdir"])
def test_whatever_the_file_system_refuses_leaves_the_earlier_one_and_no_draft(
    refused: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.write(1, b"first")
    monkeypatch.setattr(os if refused == "fsync" else Path, refused, refuse(error))
    with pytest.raises(CheckpointError, match=f"could not write the checkpoint of step 2 .*{os.strerror(error)}"):
        store.write(2, b"second")
    monkeypatch.undo()
    assert names(tmp_path) == ["step-000000001.ckpt"]
    found = store.newest()
    assert found is not None and (found.step, found.payload) == (1, b"first")
    store.write(3, b"third")
    assert names(tmp_path) == ["step-000000001.ckpt", "step-000000003.ckpt"]


def test_a_disk_that_the_kernel_says_is_full_leaves_the_earlier_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(1, b"first")
    (tmp_path / "step-000000002.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="step 2 .*No space left on device.* earlier checkpoints are untouched"):
        store.write(2, bytes(10**6))
    assert names(tmp_path) == ["step-000000001.ckpt"]
    found = store.newest()
    assert found is not None and found.step == 1


def test_a_draft_that_a_cut_has_left_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (tmp_path / "step-000000001.part").write_bytes(b"half")
    assert store.newest() is None
    store.write(3, b"third")
    assert names(tmp_path) == ["step-000000003.ckpt"]


def test_the_content_is_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        seen.append(sorted(path.suffix for path in tmp_path.iterdir()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    CheckpointStore(tmp_path).write(1, b"first")
    assert seen == [[".part"], [".ckpt"]]


def test_one_checkpoint_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keep"):
        CheckpointStore(tmp_path, keep=1)
