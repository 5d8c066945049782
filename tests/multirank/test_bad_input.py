"""What cannot work under torch.distributed is one clear error, and no hang: tried on two real ranks over Gloo."""

from __future__ import annotations

import sys

import pytest

from tests.support.launch import PROGRAMS, run_ranks

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(310)]
ON_BOTH = {
    "ddp, group without this rank": "ConfigurationError: process group: expected one with rank {rank}, ",
    "ddp, no all-reduce: a lane has it": "none",
    "ddp, no store": "ConfigurationError: rank {rank}: process group: expected one with a store",
    "ddp, options differ": "ConfigurationMismatch: bits: rank 0 has 3, rank 1 has 4",
    "ddp, hook twice": "can only be called once",
    "ddp, complex parameters": "UnsupportedTensor: expected real parameters, got 4 of dtype torch.complex64",
    "ddp, state of another method": "StateError: method: expected 'alq', got a state with 'amq'",
    "ddp, one rank alone has a state": "ConfigurationMismatch: completed steps: rank 0 has 0, rank 1 has 1",
    "plain, group without this rank": "ConfigurationError: process group: expected one with rank {rank}, ",
    "plain, no store": "ConfigurationError: rank {rank}: process group: expected one with a store",
    "plain, options differ": "ConfigurationMismatch: bits: rank 0 has 3, rank 1 has 4",
    "plain, integers": "UnsupportedTensor: rank {rank}: tensor 0: expected dense float16",
    "plain, one rank has integers": "ConfigurationMismatch: problem: rank 0 has none, rank 1 has tensor 0: expected",
    "fsdp, nodes without this rank": "ConfigurationError: process group: expected one with rank {rank}, ",
    "fsdp, options differ": "ConfigurationMismatch: bits: rank 0 has 3, rank 1 has 4",
    "fsdp, several parameter groups": "ConfigurationError: model: expected one parameter group, got 2",
    "fsdp, state of another method": "StateError: method: expected 'alq', got a state with 'amq'",
    "fsdp, state of ddp": "StateError: expected the state of these hops: ",
    "fsdp, no state": "StateError: expected the result of state_dict(), got NoneType",
}
ON_RANK_ONE = {
    "ddp, one rank not in its group": "ConfigurationError: process group: expected one with rank 1, ",
    "ddp, one rank has such a state": "StateError: method: expected 'alq', got a state with 'amq'",
}


def test_what_can_not_work_is_one_clear_error_on_every_rank() -> None:
    """Where one rank alone is wrong, it says so, and the other one that it has waited for somebody who did not come."""
    outcomes, _ = run_ranks([sys.executable, str(PROGRAMS / "bad_input.py")], 2, timeout=300, check=True)
    for rank, told in enumerate(outcomes):
        assert told.keys() == ON_BOTH.keys() | ON_RANK_ONE.keys()
        for case, text in ON_BOTH.items():
            assert text.format(rank=rank) in told[case], (rank, case)
    for case, text in ON_RANK_ONE.items():
        assert outcomes[1][case].startswith(text), case
        assert outcomes[0][case].startswith("CommunicationTimeout: rank 0: "), case
