"""Removing runs for good, in short transactions that a crash may come between.

A run is marked first, then its rows go, a bounded number at a time, then (by the caller) its
folder, then the mark. Whatever is marked is taken up again after a crash.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runyard_contract.states import RunState
from runyard_daemon.core.retention import KeptRun
from runyard_daemon.store import details, labels

_ROWS_OF_A_RUN = 30
"""About what a run has without its files and labels."""
_SIZES = """
    SELECT r.seq, r.run_id, r.experiment, r.state, r.end_time_us,
        (SELECT coalesce(sum(f.size_bytes), 0) FROM run_files f WHERE f.run_id = r.run_id)
        + (SELECT coalesce(sum(l.value), 0) FROM attempts a, json_each(a.lengths) l
           WHERE a.run_id = r.run_id)
    FROM runs r WHERE r.seq = ?
"""


@dataclass(frozen=True, slots=True)
class ErasedRun:
    """A run without records whose folder may still be there."""

    run_id: str
    experiment: str


def sequences(conn: sqlite3.Connection, workspace: str, experiment: str = "") -> Sequence[int]:
    """Gives the sequences of all runs of an experiment, or of all, newest first."""
    where, values = "workspace = ?", [workspace]
    if experiment:
        where, values = where + " AND experiment = ?", [workspace, experiment]
    query = f"SELECT seq FROM runs WHERE {where} ORDER BY seq DESC"  # noqa: S608  values are bound
    return array("q", (seq for (seq,) in conn.execute(query, values)))


def sizes(conn: sqlite3.Connection, wanted: Iterable[int]) -> list[KeptRun]:
    """Gives what a choice needs to know of the runs of these sequences, as far as they are there.

    Costs some 10 µs a run.
    """
    rows = (conn.execute(_SIZES, (seq,)).fetchone() for seq in wanted)
    return [
        KeptRun(row[0], row[1], row[2], RunState(row[3]), row[4], row[5])
        for row in rows
        if row is not None
    ]


def mark(conn: sqlite3.Connection, run_ids: Iterable[str]) -> int:
    """Marks runs that have ended for removal; gives how many of them there are."""
    marked = 0
    for run_id in run_ids:
        row = conn.execute(
            "SELECT state, experiment FROM runs WHERE run_id = ?", (run_id,)
        ).fetchone()
        if row is not None and RunState(row[0]).is_final:
            conn.execute("INSERT OR IGNORE INTO removals VALUES (?, ?, 0)", (run_id, row[1]))
            marked += 1
    return marked


def erase(conn: sqlite3.Connection, max_rows: int) -> bool:
    """Removes about `max_rows` rows of marked runs; True: there are more."""
    left = max_rows
    for (run_id,) in conn.execute(
        "SELECT run_id FROM removals WHERE is_erased = 0 LIMIT ?", (max_rows,)
    ).fetchall():
        if left <= 0:
            return True
        left -= conn.execute(
            "DELETE FROM run_files WHERE run_id = ?1 AND path IN "
            "(SELECT path FROM run_files WHERE run_id = ?1 LIMIT ?2)",
            (run_id, left),
        ).rowcount
        if left > 0:
            left -= _erase_rest(conn, run_id)
    return left <= 0


def _erase_rest(conn: sqlite3.Connection, run_id: str) -> int:
    """Removes all but the files of a run; gives about how many rows that was."""
    row = conn.execute(
        "SELECT seq, workspace, experiment, tags, properties FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    count = _ROWS_OF_A_RUN
    if row is not None:
        sequence, workspace, experiment, tags, properties = row
        for kind, text in ((labels.TAG, tags), (labels.PROPERTY, properties)):
            held = details.decode_mapping(text)
            labels.unindex(conn, sequence, kind, held)
            count += len(held)
        conn.execute("DELETE FROM runs WHERE seq = ?", (sequence,))
        conn.execute(
            "UPDATE experiments SET run_count = run_count - 1 WHERE workspace = ? AND name = ?",
            (workspace, experiment),
        )
    conn.execute("UPDATE removals SET is_erased = 1 WHERE run_id = ?", (run_id,))
    return count


def erased(conn: sqlite3.Connection, limit: int) -> list[ErasedRun]:
    """Gives up to `limit` runs whose records are gone."""
    rows = conn.execute(
        "SELECT run_id, experiment FROM removals WHERE is_erased = 1 LIMIT ?", (limit,)
    )
    return [ErasedRun(*row) for row in rows]


def forget(conn: sqlite3.Connection, run_ids: Iterable[str]) -> None:
    """Removes the marks of runs of which nothing is left."""
    conn.executemany("DELETE FROM removals WHERE run_id = ?", [(run_id,) for run_id in run_ids])
