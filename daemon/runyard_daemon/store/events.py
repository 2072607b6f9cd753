"""The event log: which runs changed, in order, for those who watch.

Every function of `runs` and `labels` that changes a run appends its event in the same transaction.
An event names the run only: who watches wants it as it is now.
"""

from __future__ import annotations

import sqlite3

from runyard_contract.record import record
from runyard_contract.states import FINAL

EVENTS_KEPT = 100_000
_PRUNE_ROWS = 1000


@record
class EventRecord:
    """A change of a run."""

    cursor: int
    run_id: str
    workspace: str
    experiment: str
    is_final: bool
    """Whether the run has ended by now."""


def append(conn: sqlite3.Connection, sequence: int) -> None:
    """Notes that the run of this sequence changed."""
    conn.execute("INSERT INTO events (seq) VALUES (?)", (sequence,))


def latest(conn: sqlite3.Connection) -> int:
    """Gives the newest cursor: what comes behind it is new; 0 before the first event."""
    (cursor,) = conn.execute("SELECT coalesce(max(cursor), 0) FROM events").fetchone()
    return int(cursor)


def is_kept(conn: sqlite3.Connection, cursor: int) -> bool:
    """Whether `since` this cursor misses nothing: no event behind it was pruned."""
    (oldest,) = conn.execute("SELECT coalesce(min(cursor), 1) FROM events").fetchone()
    return bool(cursor >= oldest - 1)


def since(conn: sqlite3.Connection, cursor: int, limit: int) -> list[EventRecord]:
    """Gives up to `limit` events behind a cursor, oldest first. Deleted runs are left out."""
    rows = conn.execute(
        "SELECT e.cursor, r.run_id, r.workspace, r.experiment, r.state FROM events e "
        "JOIN runs r ON r.seq = e.seq WHERE e.cursor > ? ORDER BY e.cursor LIMIT ?",
        (cursor, limit),
    )
    return [
        EventRecord(cursor, run_id, workspace, experiment, state in FINAL)
        for cursor, run_id, workspace, experiment, state in rows
    ]


def prune(conn: sqlite3.Connection, keep: int = EVENTS_KEPT, limit: int = _PRUNE_ROWS) -> int:
    """Removes up to `limit` of the oldest events beyond the newest `keep` (at least 1).

    Returns how many; call again in another transaction while that is `limit`.
    """
    newest = latest(conn)
    done = conn.execute(
        "DELETE FROM events WHERE cursor IN "
        "(SELECT cursor FROM events WHERE cursor <= ? ORDER BY cursor LIMIT ?)",
        (newest - max(1, keep), limit),
    )
    return done.rowcount
