"""Whether a run's limits are more than any node of its target has, so that they would be none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runyard_daemon.core.amounts import DIMENSIONS, Dimension, texts_apart
from runyard_daemon.core.types import Node, Resources

_FIELDS = {"--memory": "memory_bytes", "--cpus": "cpu_millicores"}
_LIMITED = tuple(dimension for dimension in DIMENSIONS if dimension.option in _FIELDS)


def oversized(limits: Resources, nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """Gives (field of the limits, what is wrong with it) for limits that no node could keep.

    None are where a node has as much, connected or not, and where none is connected: who knows what
    comes. The largest node is named.
    """
    wanted = [dimension for dimension in _LIMITED if dimension.amount(limits)]
    if not wanted or not any(node.is_connected for node in nodes):
        return []
    if any(all(_has(node, limits, dimension) for dimension in wanted) for node in nodes):
        return []
    found = []
    for dimension in wanted:
        largest = max(nodes, key=_amount_of(dimension))
        if not _has(largest, limits, dimension):
            need, has = texts_apart(
                dimension, dimension.amount(limits), dimension.amount(largest.capacity)
            )
            what = f"{need}: the largest node, {largest.name}, has {has}"
            found.append((_FIELDS[dimension.option], what))
    if not found:
        largest = max(nodes, key=_amount_of(wanted[0]))
        has = " and ".join(d.text(d.amount(largest.capacity)) for d in wanted)
        need = " and ".join(d.text(d.amount(limits)) for d in wanted)
        what = f"no single node has {need}; {largest.name} has {has}"
        found.append((_FIELDS[wanted[0].option], what))
    return found


def _has(node: Node, limits: Resources, dimension: Dimension) -> bool:
    return dimension.amount(node.capacity) >= dimension.amount(limits)


def _amount_of(dimension: Dimension) -> Callable[[Node], int]:
    return lambda node: dimension.amount(node.capacity)
