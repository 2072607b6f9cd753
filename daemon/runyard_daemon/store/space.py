"""The size of the database's file, and giving back what is free in it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Space:
    """Of the database's file, without its log."""

    total_bytes: int
    free_bytes: int
    """What removed records left; used for new ones first."""


def space(conn: sqlite3.Connection) -> Space:
    """Gives the size of the database."""
    page_bytes, pages, free_pages = (
        conn.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    return Space(page_bytes * pages, page_bytes * free_pages)


def shrink(conn: sqlite3.Connection, max_pages: int, keep_pages: int) -> int:
    """Gives up to `max_pages` free pages back; `keep_pages` stay for new records.

    Returns how many; call again in another transaction while that is `max_pages`.
    """
    (free_pages,) = conn.execute("PRAGMA freelist_count").fetchone()
    count = max(0, min(max_pages, int(free_pages) - keep_pages))
    for _ in range(count):
        # A page a statement: the module steps a pragma without columns once only.
        conn.execute("PRAGMA incremental_vacuum(1)")
    return count
