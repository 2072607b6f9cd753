"""Whether a built environment is worth keeping for other nodes. Pure."""

from __future__ import annotations

from typing import Literal

SealMode = Literal["auto", "always", "never"]
"""Which environments are sealed: those that are worth it, all, or none but those asked for."""
TINY_BYTES = 5 << 20
"""Below this an environment is not worth the records that it needs."""
QUICK_BUILD_S = 10.0
"""What is built faster is built again."""
_FETCH_BYTES_PER_S = 40 << 20
_PLACE_FILES_PER_S = 2000.0


def fetch_s(size_bytes: int, file_count: int) -> float:
    """About how long another node needs to fetch an environment and to lay it out, seconds."""
    return 1.0 + size_bytes / _FETCH_BYTES_PER_S + file_count / _PLACE_FILES_PER_S


def is_worth_sealing(build_s: float, size_bytes: int, file_count: int) -> bool:
    """Whether building an environment is dearer than fetching it, and the environment not tiny.

    Args:
        build_s: how long it took to build, seconds.
        size_bytes: the sum of its files' lengths.
        file_count: their number.
    """
    if size_bytes < TINY_BYTES or build_s < QUICK_BUILD_S:
        return False
    return build_s > fetch_s(size_bytes, file_count)
