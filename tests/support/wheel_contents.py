"""What a wheel holds: all of the package, compiled, and nothing else. ``wheel_contents.py WHEEL SOURCE`` says so.

It imports nothing of this repository, so that it can look at a wheel from anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

LARGEST = 4 * 2**20
"""Bytes of a wheel: three times those of today, so that what does not belong there (data, pictures) is noticed."""
COMPILED = ("accumulation/_native", "checkpoint/_shield", "codec/_native")
NEEDED = ("py.typed", "codec/cuda/codec.cu", "codec/cuda/device.cuh", "report/page.html.j2", "slurm/train.sbatch.in")
"""Files that no import would miss at once."""


def trouble(names: Collection[str], source: Collection[str], size: int) -> list[str]:
    """Return what is wrong with a wheel; nothing, if it is as it should be.

    Args:
        names: of the files of the wheel.
        source: of those below ``alq_hvd/`` in the checkout that it was built from, as ``alq_hvd/...``.
        size: of the wheel, in bytes.
    """
    package = {name for name in names if name.startswith("alq_hvd/")}
    told = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    compiled = {name for name in package if name.endswith(".so")}
    # C++ that setup.py compiles stays behind; the kernels' sources come along: they are compiled where they run.
    due = {name for name in source if not name.endswith(".cpp")} | {f"alq_hvd/{name}" for name in NEEDED}
    found = [f"missing: {name}" for name in sorted(due - package)]
    found += [
        f"missing: alq_hvd/{name}.*.so" for name in COMPILED if not any(f"alq_hvd/{name}." in it for it in compiled)
    ]
    found += [f"does not belong there: {name}" for name in sorted(set(names) - set(source) - told - compiled)]
    if size > LARGEST:
        found.append(f"too large: expected at most {LARGEST:,} bytes, got {size:,}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Print what the wheel ``arguments[0]``, built from the checkout ``arguments[1]``, holds; return a status."""
    wheel, root = map(Path, arguments)
    source = [path.relative_to(root).as_posix() for path in (root / "alq_hvd").rglob("*") if path.is_file()]
    with ZipFile(wheel) as file:
        names = file.namelist()
    found = trouble(names, source, wheel.stat().st_size)
    print(f"wheel: {len(names)} files, {wheel.stat().st_size:,} bytes", *found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
