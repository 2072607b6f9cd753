"""The history of a run's states."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence

from runyard_contract.record import record
from runyard_contract.states import RunState


@record
class TransitionRecord:
    """A change of state."""

    state: RunState
    """The new state."""
    time_us: int
    cause: str
    """Why, for people."""
    actor: str
    """ "user", "daemon" or "agent"."""


def add(
    conn: sqlite3.Connection, run_id: str, revision: int, transitions: Sequence[TransitionRecord]
) -> None:
    """Notes changes of state. `revision` is the run's after the first of them; it grows by one."""
    values: list[object] = []
    for n, change in enumerate(transitions):
        values += (run_id, revision + n, change.state.value)
        values += (change.time_us, change.cause, change.actor)
    if values:
        conn.execute(_insert(len(transitions)), values)


@functools.cache
def _insert(count: int) -> str:
    """The statement that adds so many rows: one that is executed once costs less than a loop."""
    return f"INSERT INTO transitions VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * count)}"  # noqa: S608


def of_run(conn: sqlite3.Connection, run_id: str) -> list[TransitionRecord]:
    """Gives a run's history, oldest first."""
    rows = conn.execute(
        "SELECT state, time_us, cause, actor FROM transitions WHERE run_id = ? ORDER BY revision",
        (run_id,),
    )
    return [TransitionRecord(RunState(row[0]), *row[1:]) for row in rows]
