"""The communicator of torch.distributed, on four real ranks over Gloo."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.launch import torchrun

pytestmark = [pytest.mark.multirank, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def outcome() -> list[dict[str, Any]]:
    results, _ = torchrun(4, "process_groups.py", timeout=250)
    return results


def expected(rank: int, size: int) -> dict[str, Any]:
    """Return what ``rank`` of ``size`` must receive, by the words of ``Communicator``."""
    senders = range(size)
    parts = [f"part of {sender}" * sender for sender in senders]
    return {
        "allgather": [[10 * sender] * 3 for sender in senders],
        "nothing": [0] * size,
        "unlike": [[10 * sender + rank] * (sender + 2 * rank) for sender in senders],
        "alike": [[10 * sender + rank] * (3 * rank) for sender in senders],
        "gather": [[10 * sender] * sender for sender in senders] if rank == size - 1 else [],
        "broadcast": [10 * (size - 1)] * 2,
        "bytes": parts,
        "gathered": parts if rank == 1 else [],
        "scattered": "a" * rank,
        "spread": parts[-1],
    }


def test_every_collective_delivers_what_the_protocol_says(outcome: list[dict[str, Any]]) -> None:
    for rank, told in enumerate(outcome):
        assert told["whole"] == expected(rank, 4), rank


def test_a_part_of_the_ranks_is_a_world_of_its_own(outcome: list[dict[str, Any]]) -> None:
    assert [told["place"] for told in outcome] == [[0, 2], [1, 2], [0, 2], [1, 2]]
    for rank, told in enumerate(outcome[:2]):
        assert told["part"] == expected(rank, 2), rank


def test_second_collectives_pair_whenever_each_rank_starts_them(outcome: list[dict[str, Any]]) -> None:
    assert all(told["out of step"] for told in outcome)


def test_ranks_of_a_node_and_their_likes_on_others_reach_each_other(outcome: list[dict[str, Any]]) -> None:
    assert [told["nodes"] for told in outcome] == [
        [[0, 10], [0, 20]],
        [[0, 10], [10, 30]],
        [[20, 30], [0, 20]],
        [[20, 30], [10, 30]],
    ]
    assert {told["one node"] for told in outcome} == {4}
    assert all("equally many ranks on every node" in told["unlike nodes"] for told in outcome)


def test_exact_means_of_the_host_are_right_also_where_the_group_serves_devices_alone(
    outcome: list[dict[str, Any]],
) -> None:
    for told in outcome:
        assert told["means"] == [[[0.0, 2.5, 5.0]] * 2] * 2


def test_what_can_not_work_is_an_error_that_says_what_to_do(outcome: list[dict[str, Any]]) -> None:
    for rank, told in enumerate(outcome):
        assert "ConfigurationError" in told["not started"]
        assert "init_process_group" in told["not started"]
        assert told["outside"].startswith(f"ConfigurationError: process group: expected one with rank {rank}")


def test_a_collective_that_a_rank_does_not_join_ends_in_time(outcome: list[dict[str, Any]]) -> None:
    for rank, told in enumerate(outcome[1:], 1):
        for case in ("left alone", "without lanes"):
            assert told[case].startswith(f"CommunicationTimeout: rank {rank}: 'x"), (case, told[case])
            assert "not complete after 5 s" in told[case]
