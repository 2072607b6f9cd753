"""Which built environments make room for others. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """A built environment on this node.

    `size_bytes` is the sum of its files' lengths, `last_used_unix_ns` wall clock. In use is what a
    run has or waits for, and what is being built.
    """

    key: str
    size_bytes: int
    last_used_unix_ns: int
    is_in_use: bool = False


def to_evict(stored: Iterable[Stored], bound_bytes: int) -> list[str]:
    """The keys to remove, in that order, so that the sum is within the bound if it can be.

    Least recently used first, never one in use; those count in the sum all the same. The order
    among equals is that of their keys.
    """
    found = list(stored)
    over_bytes = sum(one.size_bytes for one in found) - bound_bytes
    evicted: list[str] = []
    for one in _in_turn(found):
        if over_bytes <= 0:
            break
        if not one.is_in_use:
            evicted.append(one.key)
            over_bytes -= one.size_bytes
    return evicted


def to_prune(
    stored: Iterable[Stored], now_unix_ns: int, older_than_ns: int | None, bound_bytes: int | None
) -> list[str]:
    """The keys to remove because somebody asks for it, in that order; never one in use.

    First those go that were last used longer ago than `older_than_ns`, then the least recently used
    until the rest is within the bound if it can be. With neither of the two all go.
    """
    found = list(stored)
    if older_than_ns is None:
        return to_evict(found, bound_bytes or 0)
    until_ns = now_unix_ns - older_than_ns
    pruned = [
        one.key for one in _in_turn(found) if one.last_used_unix_ns < until_ns and not one.is_in_use
    ]
    if bound_bytes is None:
        return pruned
    gone = set(pruned)
    return pruned + to_evict((one for one in found if one.key not in gone), bound_bytes)


def _in_turn(stored: Iterable[Stored]) -> list[Stored]:
    """The least recently used first."""
    return sorted(stored, key=lambda one: (one.last_used_unix_ns, one.key))
