"""The tests and examples of Horovod's release, unpacked beside this checkout; nothing of them is kept here.

The source on PyPI has neither, so they come from the release on GitHub, or from what ``HOROVOD_SOURCE`` names: an
archive of the release, or a clone with its tag.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import urllib.request
from pathlib import Path

VERSION = "0.28.1"
ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / ".cache" / f"horovod-{VERSION}"
_ARCHIVE = f"https://github.com/horovod/horovod/archive/refs/tags/v{VERSION}.tar.gz"
_PARTS = ("test/", "examples/pytorch/")


def unpack() -> Path:
    """Return the directory with ``test`` and ``examples/pytorch`` of the release, fresh from the archive each time.

    Raises:
        SystemExit: when it cannot be had, saying how to name a copy.
    """
    archive = DIRECTORY.with_suffix(".tar")
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part")
        part.write_bytes(_release())
        part.replace(archive)
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            _, _, inner = member.name.partition("/")  # below horovod-0.28.1/
            if member.isfile() and inner.startswith(_PARTS):
                member.name = inner
                packed.extract(member, DIRECTORY, filter="data")
    return DIRECTORY


def _release() -> bytes:
    source = os.environ.get("HOROVOD_SOURCE", "")
    try:
        if source and Path(source).is_dir():
            command = ["git", "-C", source, "archive", f"--prefix=horovod-{VERSION}/", f"v{VERSION}", *_PARTS]
            return subprocess.run(command, check=True, capture_output=True).stdout
        if source:
            return _unzipped(Path(source).read_bytes())
        with urllib.request.urlopen(_ARCHIVE, timeout=60) as answer:
            return _unzipped(answer.read())
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"cannot get Horovod {VERSION} from {source or _ARCHIVE}: {error}. HOROVOD_SOURCE=... names an archive of "
            "the release or a clone of its repository"
        ) from error


def _unzipped(archive: bytes) -> bytes:
    """Return a plain tar archive with the same files."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed, tarfile.open(fileobj=plain, mode="w") as copy:
        for member in packed:
            copy.addfile(member, packed.extractfile(member) if member.isfile() else None)
    return plain.getvalue()
