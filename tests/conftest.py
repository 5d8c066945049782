"""How ``pytest -n`` spreads tests over processes: a file stays whole, and as a rule one process alone starts ranks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling


@cache
def starts_ranks(file: Path) -> bool:
    """Return whether a test of ``file`` starts ranks, which keep several processors busy by themselves."""
    return "pytest.mark.multirank" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return what hands out whole files, since their fixtures train and compile.

    Files that start ranks come first, one after another; two of them run at once only when no other file is left.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0]

        def _assign_work_unit(self, node: Any) -> None:
            others = (work for other, work in self.assigned_work.items() if other is not node)
            unfinished = (file for work in others for file, tests in work.items() if not all(tests.values()))
            want_ranks = not any(starts_ranks(config.rootpath / file) for file in unfinished)
            for file in self.workqueue:
                if starts_ranks(config.rootpath / file) == want_ranks:
                    self.workqueue.move_to_end(file, last=False)
                    break
            super()._assign_work_unit(node)

    return WholeFiles(config, log)
