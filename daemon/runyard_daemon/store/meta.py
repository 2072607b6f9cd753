"""Facts of the data directory: its identity and the counter of grants."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

_INCARNATION_SHIFT = 32


@dataclass(frozen=True, slots=True)
class MetaRecord:
    """What is kept once in a database."""

    instance_id: str
    """32 hexadecimal digits, made with the database."""
    incarnation: int
    """The high half of epochs: raised when a backup is restored."""
    grants: int
    """The low half of the newest epoch."""
    page_key: bytes
    """Signs page tokens, so that they outlive a restart of the daemon."""
    written_by: str
    """The newest version of the daemon that opened the database for writing."""


def get(conn: sqlite3.Connection) -> MetaRecord:
    """Gives the facts."""
    row = conn.execute(
        "SELECT instance_id, incarnation, grants, page_key, written_by FROM meta"
    ).fetchone()
    return MetaRecord(*row)


def next_epochs(conn: sqlite3.Connection, count: int) -> range:
    """Counts several grants: epochs above all that were given in this data directory before."""
    # Two statements: RETURNING costs as much as several.
    conn.execute("UPDATE meta SET grants = grants + ?", (count,))
    incarnation, grants = conn.execute("SELECT incarnation, grants FROM meta").fetchone()
    newest = int(incarnation) << _INCARNATION_SHIFT | int(grants)
    return range(newest - count + 1, newest + 1)


def raise_incarnation(conn: sqlite3.Connection, incarnation: int) -> None:
    """Starts a new incarnation, above the last, whose epochs are above all given before.

    Page tokens of the last one die with it.
    """
    conn.execute(
        "UPDATE meta SET incarnation = ?, grants = 0, page_key = randomblob(32)", (incarnation,)
    )
