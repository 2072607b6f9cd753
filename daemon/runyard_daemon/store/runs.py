"""Runs: one row each, its specification apart. Every change raises `revision` and leaves an event.

Listings are in `listing`, tags and properties in `labels`.
"""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, TypedDict, Unpack

from runyard_contract.errors import RunNotFound
from runyard_contract.record import record, replace
from runyard_contract.states import RunState
from runyard_daemon.core.types import NO_RESOURCES, Resources
from runyard_daemon.store import details, events, labels, transitions
from runyard_daemon.store.details import EndRecord, PhaseRecord, WorkdirRecord
from runyard_daemon.store.transitions import TransitionRecord


@record(kw_only=True)
class RunRecord:
    """A run as it is now, without its specification and history."""

    run_id: str
    workspace: str
    experiment: str
    number: int
    """In its experiment, from 1: `last_number` of `experiments.admit`."""
    sequence: int
    """Grows with each submit, unique; what listings are ordered by (see `next_sequence`)."""
    state: RunState
    compute: str
    create_time_us: int
    attempt: int = 0
    """Number of the newest attempt; 0 before the first."""
    revision: int = 1
    """Grows with each change: the etag."""
    priority: int = 0
    resources: Resources = NO_RESOURCES
    """What was asked for."""
    start_time_us: int | None = None
    """When the program was started."""
    end_time_us: int | None = None
    """When it reached its final state."""
    client_snapshot_us: int = 0
    """What the client spent on the snapshot before the submit."""
    submitted_by: str = ""
    """The principal."""
    snapshot: str = ""
    """Digest of its snapshot; empty: none."""
    display_name: str = ""
    node: str = ""
    """Target and node of the newest attempt, for people."""
    status_message: str = ""
    canceled_by: str = ""
    """Who asked for its end; empty: nobody."""
    cancel_reason: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    end: EndRecord | None = None
    workdir: WorkdirRecord | None = None


@record
class SpecRecord:
    """What a run was asked to be; never changes."""

    spec: bytes
    """The serialized specification, as submitted."""
    environment: bytes = b""
    """The serialized environment after names and defaults were resolved; empty: none."""


class RunChange(TypedDict, total=False):
    """What `update` and `move` can change; what is left out stays."""

    attempt: int
    start_time_us: int | None
    end_time_us: int | None
    display_name: str
    node: str
    status_message: str
    canceled_by: str
    cancel_reason: str
    warnings: tuple[str, ...]
    phases: tuple[PhaseRecord, ...]
    end: EndRecord | None
    workdir: WorkdirRecord | None


COLUMNS: Final = (
    "seq, run_id, workspace, experiment, number, state, attempt, revision, compute, priority, "
    "cpu_millis, memory_bytes, gpus, create_time_us, start_time_us, end_time_us, "
    "client_snapshot_us, submitted_by, snapshot, display_name, node, status_message, "
    "canceled_by, cancel_reason, tags, properties, warnings, phases, end_json, workdir"
)
"""What `from_row` reads, in its order."""

_INSERT = f"INSERT INTO runs ({COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS.split(',')))})"
_INSERT_SPEC = "INSERT INTO run_specs VALUES (?, ?, ?)"
_GET = f"SELECT {COLUMNS} FROM runs WHERE run_id = ?"
_ENCODERS: Mapping[str, tuple[str, Callable[[Any], str | None]]] = {
    "warnings": ("warnings", details.encode_texts),
    "phases": ("phases", details.encode_phases),
    "end": ("end_json", details.encode_end),
    "workdir": ("workdir", details.encode_workdir),
}


def from_row(row: Sequence[Any]) -> RunRecord:
    """Builds a record from the columns of `COLUMNS`."""
    return RunRecord(
        sequence=row[0],
        run_id=row[1],
        workspace=row[2],
        experiment=row[3],
        number=row[4],
        state=RunState(row[5]),
        attempt=row[6],
        revision=row[7],
        compute=row[8],
        priority=row[9],
        resources=Resources(row[10], row[11], row[12]),
        create_time_us=row[13],
        start_time_us=row[14],
        end_time_us=row[15],
        client_snapshot_us=row[16],
        submitted_by=row[17],
        snapshot=row[18],
        display_name=row[19],
        node=row[20],
        status_message=row[21],
        canceled_by=row[22],
        cancel_reason=row[23],
        tags=details.decode_mapping(row[24]),
        properties=details.decode_mapping(row[25]),
        warnings=details.decode_texts(row[26]),
        phases=details.decode_phases(row[27]),
        end=details.decode_end(row[28]),
        workdir=details.decode_workdir(row[29]),
    )


def insert(
    conn: sqlite3.Connection,
    run: RunRecord,
    spec: SpecRecord,
    history: Sequence[TransitionRecord],
) -> RunRecord:
    """Adds a run with the states it went through so far, the last of which is its own.

    Its experiment must have been admitted in the same transaction. Returns the run as stored: its
    revision is the number of those states. Raises sqlite3.IntegrityError for an id that exists.
    """
    revision = max(1, len(history))
    row = (
        run.sequence,
        run.run_id,
        run.workspace,
        run.experiment,
        run.number,
        run.state.value,
        run.attempt,
        revision,
        run.compute,
        run.priority,
        run.resources.cpu_millis,
        run.resources.memory_bytes,
        run.resources.gpus,
        run.create_time_us,
        run.start_time_us,
        run.end_time_us,
        run.client_snapshot_us,
        run.submitted_by,
        run.snapshot,
        run.display_name,
        run.node,
        run.status_message,
        run.canceled_by,
        run.cancel_reason,
        details.encode_mapping(run.tags),
        details.encode_mapping(run.properties),
        details.encode_texts(run.warnings),
        details.encode_phases(run.phases),
        details.encode_end(run.end),
        details.encode_workdir(run.workdir),
    )
    conn.execute(_INSERT, row)
    conn.execute(_INSERT_SPEC, (run.sequence, spec.spec, spec.environment))
    transitions.add(conn, run.run_id, 1, history)
    labels.index(conn, run.sequence, labels.TAG, run.tags)
    labels.index(conn, run.sequence, labels.PROPERTY, run.properties)
    events.append(conn, run.sequence)
    return run if revision == run.revision else replace(run, revision=revision)


def next_sequence(conn: sqlite3.Connection) -> int:
    """Gives a sequence above all that were given: where a daemon's counter starts."""
    (newest,) = conn.execute(
        "SELECT max((SELECT coalesce(max(seq), 0) FROM runs),"
        " (SELECT coalesce(max(last_sequence), 0) FROM experiments))"
    ).fetchone()
    return int(newest) + 1


def get(conn: sqlite3.Connection, run_id: str) -> RunRecord | None:
    """Gives a run; None: there is none of that id."""
    row = conn.execute(_GET, (run_id,)).fetchone()
    return from_row(row) if row else None


def get_spec(conn: sqlite3.Connection, run_id: str) -> SpecRecord:
    """Gives what a run was asked to be. Raises RunNotFound."""
    row = conn.execute(
        "SELECT spec, environment FROM run_specs WHERE seq = "
        "(SELECT seq FROM runs WHERE run_id = ?)",
        (run_id,),
    ).fetchone()
    if row is None:
        raise RunNotFound.named(run_id)
    return SpecRecord(*row)


def update(conn: sqlite3.Connection, run_id: str, **changes: Unpack[RunChange]) -> int:
    """Changes a run without changing its state; returns its new revision. Raises RunNotFound."""
    return _change(conn, run_id, (), changes)


def move(
    conn: sqlite3.Connection,
    run_id: str,
    moves: Sequence[TransitionRecord],
    **changes: Unpack[RunChange],
) -> int:
    """Moves a run through states and changes it; returns its new revision. Raises RunNotFound.

    Each state counts as one revision; all are one event. Whether a state may follow the one before
    is the caller's to know (`core.lifecycle`).
    """
    return _change(conn, run_id, moves, changes)


def _change(
    conn: sqlite3.Connection,
    run_id: str,
    moves: Sequence[TransitionRecord],
    changes: RunChange,
) -> int:
    """Writes the columns that change, notes the transitions and the event."""
    row = conn.execute("SELECT seq, revision FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise RunNotFound.named(run_id)
    sequence, revision = row
    columns: dict[str, object] = {"revision": revision + max(1, len(moves))}
    if moves:
        columns["state"] = moves[-1].state.value
        transitions.add(conn, run_id, revision + 1, moves)
    for name, value in changes.items():
        column, encode = _ENCODERS.get(name, (name, None))
        columns[column] = encode(value) if encode else value
    conn.execute(_update(tuple(columns)), (*columns.values(), sequence))
    events.append(conn, sequence)
    return int(revision) + max(1, len(moves))


@functools.cache
def _update(columns: tuple[str, ...]) -> str:
    """The statement that changes these columns, whose names come from RunChange."""
    return f"UPDATE runs SET {', '.join(f'{column} = ?' for column in columns)} WHERE seq = ?"
