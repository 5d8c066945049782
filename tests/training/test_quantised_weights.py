"""3-bit weights with 3-bit gradients on real images over real ranks: equal bits, also after a cut."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from alq_hvd.checkpoint import PREEMPTED_STATUS
from tests.training.test_going_on import OPTIONS, Run

pytestmark = [pytest.mark.multirank, pytest.mark.training, pytest.mark.timeout(600)]


def test_ranks_agree_bit_for_bit_and_a_cut_run_ends_like_an_uncut_one(tmp_path: Path) -> None:
    options = f"{OPTIONS} --compression alq --bits 3 --weights laq3"
    status, printed = Run(2, tmp_path / "uncut", None, options).finish()
    assert status == 0, printed
    uncut = json.loads((tmp_path / "uncut" / "result.json").read_text())
    ranks = [json.loads((tmp_path / "uncut" / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["weights_sha256"] == ranks[1]["weights_sha256"] == uncut["weights_sha256"]
    assert uncut["weights"] == "laq3"
    assert uncut["label"] == "alq 3 bits weights laq3"

    run = Run(2, tmp_path / "run", tmp_path / "checkpoints", options)
    run.wait_for_step(4)[-1].send_signal(signal.SIGUSR1)
    status, printed = run.finish()
    assert status == PREEMPTED_STATUS, printed
    status, printed = Run(2, tmp_path / "run", tmp_path / "checkpoints", options).finish()
    assert status == 0, printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["resumed"]
    for name in ("weights_sha256", "accuracy", "bytes_per_step"):
        assert result[name] == uncut[name], name


def test_a_scheme_that_does_not_exist_is_said_once(tmp_path: Path) -> None:
    status, printed = Run(2, tmp_path, None, f"{OPTIONS} --weights laq9").finish()
    assert status == 2, printed
    assert printed.count("laq is defined at 2 to 8 bits, got 9") == 1
