"""What this package makes for itself, nobody else may write, even where the umask would let them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from alq_hvd.codec import cuda_kernels


def test_nobody_else_may_put_code_into_the_cache_of_kernels(tmp_path: Path) -> None:
    folder = tmp_path / "alq-hvd" / "kernels"
    umask = os.umask(0)
    try:
        file = cuda_kernels._write(folder, "key", "symbol", b"code")
    finally:
        os.umask(umask)
    for path, mode in ((folder, 0o755), (file, 0o644)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
