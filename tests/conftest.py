"""How ``pytest -n`` spreads tests over processes: a file stays whole, and one process alone starts ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

RANKS = "files whose tests start ranks"
"""The share of work of one process: ranks of two tests at once would wait for each other's processors."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return what hands out whole files, whose fixtures train and compile, in order; those that start ranks first."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False
    start_ranks: dict[str, bool] = {}

    class WholeFiles(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file not in start_ranks:
                start_ranks[file] = "pytest.mark.multirank" in (config.rootpath / Path(file)).read_text()
            return RANKS if start_ranks[file] else file

    return WholeFiles(config, log)
