"""Every piece of Python in the guide to training loops trains, on four real ranks, as the guide says."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.launch import PROGRAMS, run_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(330)]
STEPS = {
    "A learning-rate schedule": 6,
    "Gradient accumulation": 3,
    "Mixed precision, clipping in between": 6,
    "`torch.compile`": 6,
    "Several groups of ranks": 6,
    "Warm-up without compression, and options that change": 6,
}


@pytest.mark.parametrize("front_end", ["horovod", "ddp"])
def test_every_piece_of_the_guide_trains_as_it_says(front_end: str) -> None:
    command = [sys.executable, str(PROGRAMS / "loop_snippets.py")]
    told: list[dict[str, Any]]
    told, _ = run_ranks(command, 4, front_end, timeout=300, check=True)
    assert all(rank.keys() == {*STEPS, "Calls of your own"} for rank in told)
    for heading, first in told[0].items():
        digests = [rank[heading]["digest"] for rank in told]
        if heading == "Several groups of ranks":
            assert digests[0] == digests[1] != digests[2] == digests[3]
        else:
            assert len(set(digests)) == 1, heading
        if heading in STEPS:
            assert first["moved"] and first["step"] == STEPS[heading], heading
            assert first["compressed_elements"] == 4800, heading
    assert told[0]["Warm-up without compression, and options that change"]["bits"] == 2
