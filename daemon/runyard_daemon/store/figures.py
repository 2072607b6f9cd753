"""Figures about the records, for monitoring."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BY_STATE: Final = "SELECT state, count(*) FROM runs GROUP BY state"
_OLDEST: Final = """
    SELECT create_time_us FROM runs WHERE workspace = ? AND state = 'QUEUED' ORDER BY seq LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class RecordFigures:
    """How many runs there are, and since when the first of those that wait waits."""

    runs_by_state: dict[str, int]
    oldest_wait_since_us: int | None
    """Submit time of the run that waits longest; None: none waits."""


def records(conn: sqlite3.Connection) -> RecordFigures:
    """Counts runs by state. O(n) in all runs, over an index: for a reader's thread."""
    by_state = dict(conn.execute(_BY_STATE).fetchall())
    workspaces = [name for (name,) in conn.execute("SELECT name FROM workspaces")]
    oldest = [row[0] for name in workspaces if (row := conn.execute(_OLDEST, (name,)).fetchone())]
    return RecordFigures(by_state, min(oldest, default=None))


def touch(conn: sqlite3.Connection) -> None:
    """Writes a row as it is: what shows, once committed, that the disk takes writes."""
    conn.execute("UPDATE meta SET is_clean = is_clean")


def size_bytes(path: Path) -> int:
    """Size of a database with the log beside it."""
    total = 0
    for name in (path.name, f"{path.name}-wal"):
        try:
            total += path.with_name(name).stat().st_size
        except FileNotFoundError:
            continue
    return total
