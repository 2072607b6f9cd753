"""Experiments: they come into being with their first run."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3

from runyard_contract.record import record

_COLUMNS = (
    "workspace, name, create_time_us, last_run_time_us, last_sequence, last_number, run_count"
)
_ADMIT = f"""
    INSERT INTO experiments VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?5)
    ON CONFLICT (workspace, name) DO UPDATE SET
        last_run_time_us = ?3, last_sequence = ?4,
        last_number = last_number + ?5, run_count = run_count + ?5
    RETURNING {_COLUMNS}
"""
_GET = f"SELECT {_COLUMNS} FROM experiments WHERE workspace = ? AND name = ?"
_PAGE = f"""
    SELECT {_COLUMNS} FROM experiments WHERE workspace = ? AND last_sequence < ?
    ORDER BY last_sequence DESC LIMIT ?
"""
_MAX_SEQUENCE = (1 << 63) - 1


@record
class ExperimentRecord:
    """An experiment."""

    workspace: str
    name: str
    """As first submitted; names are the same without case."""
    create_time_us: int
    last_run_time_us: int
    last_sequence: int
    """The sequence of its newest run: what listings are ordered by."""
    last_number: int
    """The number of its newest run."""
    run_count: int


def admit(
    conn: sqlite3.Connection,
    workspace: str,
    name: str,
    sequence: int,
    now_us: int,
    count: int = 1,
) -> ExperimentRecord:
    """Counts new runs of an experiment, which is made where there was none.

    `sequence` is that of the last of them, whose number is `last_number` of what is returned. Their
    experiment is `name`, which keeps the case of the first submit.
    """
    (row,) = conn.execute(_ADMIT, (workspace, name, now_us, sequence, count)).fetchall()
    return ExperimentRecord(*row)


def get(conn: sqlite3.Connection, workspace: str, name: str) -> ExperimentRecord | None:
    """Gives an experiment, in whatever case its name is given; None: there is none."""
    row = conn.execute(_GET, (workspace, name)).fetchone()
    return ExperimentRecord(*row) if row else None


def page(
    conn: sqlite3.Connection, workspace: str, after: int | None, limit: int
) -> list[ExperimentRecord]:
    """Gives up to `limit` experiments, the last used first.

    `after` is `last_sequence` of the last one of the page before; None: the first page.
    """
    bound = _MAX_SEQUENCE if after is None else after
    return [ExperimentRecord(*row) for row in conn.execute(_PAGE, (workspace, bound, limit))]


def names(conn: sqlite3.Connection, workspace: str, limit: int = 1000) -> list[str]:
    """Gives the names last used, to suggest the nearest."""
    rows = conn.execute(
        "SELECT name FROM experiments WHERE workspace = ? ORDER BY last_sequence DESC LIMIT ?",
        (workspace, limit),
    )
    return [name for (name,) in rows]


def total_runs(conn: sqlite3.Connection) -> int:
    """Counts all runs on record, at the cost of the number of experiments."""
    (total,) = conn.execute("SELECT coalesce(sum(run_count), 0) FROM experiments").fetchone()
    return int(total)
