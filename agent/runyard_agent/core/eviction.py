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
    for one in sorted(found, key=lambda one: (one.last_used_unix_ns, one.key)):
        if over_bytes <= 0:
            break
        if not one.is_in_use:
            evicted.append(one.key)
            over_bytes -= one.size_bytes
    return evicted
