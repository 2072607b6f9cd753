from __future__ import annotations

from dataclasses import replace

from runyard_daemon.core.oversized import oversized
from runyard_daemon.core.types import NO_RESOURCES, Node, NodeId, Resources

GIB = 1 << 30


def node(name: str, cpus: int, gib: int) -> Node:
    return Node(NodeId(name), name, "farm", 2, Resources(cpus * 1000, gib * GIB))


def limits(cpus: float = 0, gib: float = 0) -> Resources:
    return Resources(int(cpus * 1000), int(gib * GIB))


NODES = (node("small", 32, 16), node("large", 8, 64))


def test_limits_that_some_node_has_are_taken() -> None:
    assert oversized(limits(cpus=8, gib=64), NODES) == []
    assert oversized(limits(cpus=32), NODES) == []
    assert oversized(NO_RESOURCES, NODES) == []


def test_each_limit_that_no_node_has_names_the_largest_node() -> None:
    assert oversized(limits(cpus=32.5, gib=100), NODES) == [
        (
            "memory_bytes",
            "100 GiB of memory: the largest node, large, has 64 GiB of memory",
        ),
        ("cpu_millicores", "32.5 CPUs: the largest node, small, has 32 CPUs"),
    ]


def test_limits_that_no_single_node_has_together_are_told_together() -> None:
    ((field, what),) = oversized(limits(cpus=9, gib=17), NODES)

    assert field == "memory_bytes"
    assert what == (
        "no single node has 17 GiB of memory and 9 CPUs; large has 64 GiB of memory and 8 CPUs"
    )


def test_amounts_that_look_alike_are_told_exactly() -> None:
    wanted = Resources(0, 64 * GIB + 1)

    ((_, what),) = oversized(wanted, NODES)

    assert f"{64 * GIB + 1:,} bytes: " in what
    assert f"has {64 * GIB:,} bytes" in what


def test_nodes_that_may_come_are_waited_for() -> None:
    away = [replace(one, is_connected=False) for one in NODES]

    assert oversized(limits(gib=100), []) == []
    assert oversized(limits(gib=100), away) == []
    assert oversized(limits(gib=100), [away[0], NODES[1]]) != []


def test_node_that_is_away_counts_for_what_it_has() -> None:
    away = replace(NODES[1], is_connected=False)

    assert oversized(limits(gib=64), [NODES[0], away]) == []
