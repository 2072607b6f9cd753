"""Attempts: the grants of runs to nodes. (run, attempt, epoch) fences every change."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypedDict, Unpack

from runyard_contract.record import record
from runyard_daemon.core.types import NO_RESOURCES, AttemptRef, Resources
from runyard_daemon.store import details
from runyard_daemon.store.details import AttemptEndRecord

_COLUMNS = (
    "run_id, attempt, epoch, node_id, phase, grant_time_us, start_time_us, end_time_us, "
    "held_cpu_millis, held_memory_bytes, held_gpus, tags_read_bytes, is_sealed, lengths, end_json"
)
_INSERT = f"INSERT INTO attempts ({_COLUMNS}) VALUES ({', '.join('?' * 15)})"
_GET = f"SELECT {_COLUMNS} FROM attempts WHERE run_id = ? AND attempt = ?"
_CURRENT = f"SELECT {_COLUMNS} FROM attempts WHERE run_id = ? ORDER BY attempt DESC LIMIT 1"
_OF_RUN = f"SELECT {_COLUMNS} FROM attempts WHERE run_id = ? ORDER BY attempt"


@record(kw_only=True)
class AttemptRecord:
    """An attempt of a run."""

    run_id: str
    attempt: int
    """From 1."""
    epoch: int
    """Grows with every grant of the data directory (`meta.next_epochs`)."""
    node_id: str
    grant_time_us: int
    phase: str = "GRANTED"
    """AHEAD or GRANTED, then what the agent reports: ACCEPTED, PREPARING, RUNNING, EXITED,
    ENDED."""
    held: Resources = NO_RESOURCES
    start_time_us: int | None = None
    """When the program was started."""
    end_time_us: int | None = None
    """When it was over."""
    tags_read_bytes: int = 0
    """How much of its tags file was applied to the run."""
    is_sealed: bool = False
    """Its log is complete."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Final lengths in bytes of the files that grow, by file name; from EXITED on."""
    end: AttemptEndRecord | None = None

    @property
    def ref(self) -> AttemptRef:
        """The fencing token."""
        return AttemptRef(self.run_id, self.attempt, self.epoch)


class AttemptChange(TypedDict, total=False):
    """What `update` can change; what is left out stays."""

    phase: str
    grant_time_us: int
    start_time_us: int | None
    end_time_us: int | None
    tags_read_bytes: int
    is_sealed: bool
    lengths: Mapping[str, int]
    end: AttemptEndRecord | None


_ENCODERS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "lengths": ("lengths", details.encode_mapping),
    "end": ("end_json", details.encode_attempt_end),
}


def insert(conn: sqlite3.Connection, attempt: AttemptRecord) -> None:
    """Adds a grant. Raises sqlite3.IntegrityError for a number or an epoch that was given."""
    conn.execute(
        _INSERT,
        (
            attempt.run_id,
            attempt.attempt,
            attempt.epoch,
            attempt.node_id,
            attempt.phase,
            attempt.grant_time_us,
            attempt.start_time_us,
            attempt.end_time_us,
            attempt.held.cpu_millis,
            attempt.held.memory_bytes,
            attempt.held.gpus,
            attempt.tags_read_bytes,
            attempt.is_sealed,
            details.encode_mapping(attempt.lengths),
            details.encode_attempt_end(attempt.end),
        ),
    )


def get(conn: sqlite3.Connection, run_id: str, attempt: int) -> AttemptRecord | None:
    """Gives one attempt; None: there is none of that number."""
    row = conn.execute(_GET, (run_id, attempt)).fetchone()
    return _from_row(row) if row else None


def current(conn: sqlite3.Connection, run_id: str) -> AttemptRecord | None:
    """Gives the newest attempt of a run: the one whose epoch counts; None before the first."""
    row = conn.execute(_CURRENT, (run_id,)).fetchone()
    return _from_row(row) if row else None


def of_run(conn: sqlite3.Connection, run_id: str) -> list[AttemptRecord]:
    """Gives all attempts of a run, oldest first."""
    return [_from_row(row) for row in conn.execute(_OF_RUN, (run_id,))]


def update(conn: sqlite3.Connection, ref: AttemptRef, **changes: Unpack[AttemptChange]) -> bool:
    """Changes the attempt that this token names, if it is its run's newest.

    False: it is not, or its epoch is another; then nothing was changed.
    """
    columns: dict[str, object] = {}
    for name, value in changes.items():
        column, encode = _ENCODERS.get(name, (name, None))
        columns[column] = encode(value) if encode else value
    if not columns:
        raise ValueError("an update of an attempt must name what changes")
    token = (ref.run_id, ref.attempt, ref.epoch, ref.run_id)
    return conn.execute(_update(tuple(columns)), (*columns.values(), *token)).rowcount == 1


@functools.cache
def _update(columns: tuple[str, ...]) -> str:
    """The statement that changes these columns, whose names come from AttemptChange."""
    return (
        f"UPDATE attempts SET {', '.join(f'{column} = ?' for column in columns)} "
        "WHERE run_id = ? AND attempt = ? AND epoch = ? "
        "AND attempt = (SELECT max(attempt) FROM attempts WHERE run_id = ?)"
    )


def remove(conn: sqlite3.Connection, ref: AttemptRef) -> None:
    """Removes an attempt that never began, as if it had not been granted."""
    conn.execute(
        "DELETE FROM attempts WHERE run_id = ? AND attempt = ? AND epoch = ?",
        (ref.run_id, ref.attempt, ref.epoch),
    )


def _from_row(row: Sequence[Any]) -> AttemptRecord:
    return AttemptRecord(
        run_id=row[0],
        attempt=row[1],
        epoch=row[2],
        node_id=row[3],
        phase=row[4],
        grant_time_us=row[5],
        start_time_us=row[6],
        end_time_us=row[7],
        held=Resources(row[8], row[9], row[10]),
        tags_read_bytes=row[11],
        is_sealed=bool(row[12]),
        lengths=details.decode_mapping(row[13]),
        end=details.decode_attempt_end(row[14]),
    )
