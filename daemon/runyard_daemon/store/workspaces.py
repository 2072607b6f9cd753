"""Workspaces."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkspaceRecord:
    """A workspace."""

    name: str
    create_time_us: int


def ensure(conn: sqlite3.Connection, name: str, now_us: int) -> WorkspaceRecord:
    """Gives the workspace of this name, made now where there was none."""
    conn.execute("INSERT OR IGNORE INTO workspaces VALUES (?, ?)", (name, now_us))
    record = get(conn, name)
    assert record is not None  # noqa: S101  the line above made it
    return record


def get(conn: sqlite3.Connection, name: str) -> WorkspaceRecord | None:
    """Gives a workspace, in whatever case its name is given; None: there is none."""
    row = conn.execute(
        "SELECT name, create_time_us FROM workspaces WHERE name = ?", (name,)
    ).fetchone()
    return WorkspaceRecord(*row) if row else None


def page(conn: sqlite3.Connection, after: str, limit: int) -> list[WorkspaceRecord]:
    """Gives up to `limit` workspaces by name, those behind `after` (empty: from the first)."""
    rows = conn.execute(
        "SELECT name, create_time_us FROM workspaces WHERE name > ? ORDER BY name LIMIT ?",
        (after, limit),
    )
    return [WorkspaceRecord(*row) for row in rows]


def names(conn: sqlite3.Connection) -> list[str]:
    """Gives all names, to suggest the nearest."""
    return [name for (name,) in conn.execute("SELECT name FROM workspaces ORDER BY name")]
