"""Tags and properties of runs, and the table that finds runs by them."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import Final

from runyard_contract.errors import RunNotFound
from runyard_daemon.store import details, events

TAG: Final = 0
PROPERTY: Final = 1

_COLUMN = {TAG: "tags", PROPERTY: "properties"}


def index(conn: sqlite3.Connection, sequence: int, kind: int, labels: Mapping[str, str]) -> None:
    """Makes the run of this sequence findable by labels of a kind (TAG or PROPERTY)."""
    if labels:
        conn.executemany(
            "INSERT INTO run_labels VALUES (?, ?, ?, ?)",
            [(kind, key, value, sequence) for key, value in labels.items()],
        )


def unindex(conn: sqlite3.Connection, sequence: int, kind: int, held: Mapping[str, str]) -> None:
    """Makes the run of this sequence no longer findable by labels that it has."""
    conn.executemany(
        "DELETE FROM run_labels WHERE kind = ? AND key = ? AND value = ? AND seq = ?",
        [(kind, key, value, sequence) for key, value in held.items()],
    )


def set_tags(
    conn: sqlite3.Connection, run_id: str, tags: Mapping[str, str], remove: Collection[str] = ()
) -> dict[str, str]:
    """Sets tags of a run and removes those of these keys; returns all it then has.

    Nothing is written where nothing changes. Raises RunNotFound.
    """
    sequence, before = _read(conn, run_id, TAG)
    after = {key: value for key, value in before.items() if key not in remove} | dict(tags)
    if after != before:
        unindex(conn, sequence, TAG, dict(before.items() - after.items()))
        index(conn, sequence, TAG, dict(after.items() - before.items()))
        _write(conn, sequence, TAG, after)
    return after


def add_properties(
    conn: sqlite3.Connection, run_id: str, properties: Mapping[str, str]
) -> tuple[str, ...]:
    """Sets properties of a run that it does not have yet, for a value is set once.

    Returns the keys that had another value and keep it. Raises RunNotFound.
    """
    sequence, before = _read(conn, run_id, PROPERTY)
    fresh = {key: value for key, value in properties.items() if key not in before}
    if fresh:
        index(conn, sequence, PROPERTY, fresh)
        _write(conn, sequence, PROPERTY, before | fresh)
    return tuple(key for key, value in properties.items() if before.get(key, value) != value)


def set_properties(conn: sqlite3.Connection, run_id: str, properties: Mapping[str, str]) -> None:
    """Sets properties that runyard itself knows of a run: its newest attempt's count.

    Nothing is written where nothing changes. Raises RunNotFound.
    """
    sequence, before = _read(conn, run_id, PROPERTY)
    after = before | dict(properties)
    if after != before:
        unindex(conn, sequence, PROPERTY, dict(before.items() - after.items()))
        index(conn, sequence, PROPERTY, dict(after.items() - before.items()))
        _write(conn, sequence, PROPERTY, after)


def _read(conn: sqlite3.Connection, run_id: str, kind: int) -> tuple[int, dict[str, str]]:
    row = conn.execute(
        f"SELECT seq, {_COLUMN[kind]} FROM runs WHERE run_id = ?",
        (run_id,),
    ).fetchone()
    if row is None:
        raise RunNotFound.named(run_id)
    return row[0], details.decode_mapping(row[1])


def _write(conn: sqlite3.Connection, sequence: int, kind: int, labels: Mapping[str, str]) -> None:
    conn.execute(
        f"UPDATE runs SET revision = revision + 1, {_COLUMN[kind]} = ? WHERE seq = ?",
        (details.encode_mapping(labels), sequence),
    )
    events.append(conn, sequence)
