"""A node that is unlike the others is named with what is odd; nodes that are alike are left alone."""

from __future__ import annotations

from dataclasses import replace

from alq_hvd.slurm.nodes import Node, oddities, table
from tests.support.cases import each

USUAL = Node("n1", 64, ("H100",) * 4, {"python": "3.11.7", "torch": "2.13.0"}, 0.0, 2e-6, 24e9)


def cluster(**changes: object) -> list[Node]:
    """Return four nodes that differ by no more than nodes do, the third changed."""
    nodes = [
        replace(
            USUAL,
            host=f"n{number}",
            clock=number * 1e-3,
            latency=(2 + number / 5) * 1e-6,
            bandwidth=24e9 - number * 1e9,
        )
        for number in range(1, 5)
    ]
    nodes[2] = replace(nodes[2], **changes)
    return nodes


def test_alike_nodes_are_left_alone() -> None:
    assert oddities(cluster()) == {}
    assert "all 4 nodes are alike" in table(cluster())
    assert "4 x H100" in table(cluster())


@each(
    ("changes", "text"),
    [
        ({"cores": 32}, "32 cores, others 64"),
        ({"gpus": ("H100",) * 3}, "GPUs: 3 x H100, others 4 x H100"),
        ({"gpus": ()}, "GPUs: none, others 4 x H100"),
        ({"versions": {"python": "3.11.7", "torch": "2.12.0"}}, "torch 2.12.0, others 2.13.0"),
        ({"clock": -2.0}, "clock -2.00"),
        ({"bandwidth": 1e9}, "1000 MB/s, others 21000"),
        ({"latency": 50e-6}, "latency 50 us, others"),
    ],
)
def test_the_odd_node_is_named_with_what_is_odd(changes: dict[str, object], text: str) -> None:
    nodes = cluster(**changes)
    found = oddities(nodes)
    assert found.keys() == {"n3"}
    assert len(found["n3"]) == 1 and text in found["n3"][0]
    printed = table(nodes)
    assert f"odd: n3: {found['n3'][0]}" in printed
    assert "\n! n3" in printed and printed.count("\n! ") == 1
    assert "alike" not in printed


def test_two_ranks_of_one_host_are_told() -> None:
    assert "2 ranks call their host so" in oddities(cluster(host="n1"))["n1"][0]


def test_one_node_alone_is_not_odd() -> None:
    assert oddities([replace(USUAL, latency=0.0, bandwidth=0.0)]) == {}
