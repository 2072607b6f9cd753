"""Snapshots, and the directories whose whole content is known to be in the store."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from runyard_contract.record import record

_VARIABLES = 500  # bound values of one query; older SQLite takes 999


@record
class SnapshotRecord:
    """A source directory as submitted."""

    workspace: str
    digest: str
    """Of the root's manifest, hexadecimal."""
    file_count: int
    size_bytes: int
    create_time_us: int


@record
class DirectoryRecord:
    """A directory of which every blob below it was found in the store."""

    digest: str
    file_count: int
    """Files and links below it."""
    size_bytes: int


def put(conn: sqlite3.Connection, snapshot: SnapshotRecord) -> SnapshotRecord:
    """Keeps a snapshot; the one declared first stays. Gives what is kept."""
    conn.execute(
        "INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?)",
        (
            snapshot.workspace,
            snapshot.digest,
            snapshot.file_count,
            snapshot.size_bytes,
            snapshot.create_time_us,
        ),
    )
    return get(conn, snapshot.workspace, snapshot.digest) or snapshot


def get(conn: sqlite3.Connection, workspace: str, digest: str) -> SnapshotRecord | None:
    """Gives a snapshot; None: it was not declared."""
    row = conn.execute(
        "SELECT workspace, digest, file_count, size_bytes, create_time_us FROM snapshots "
        "WHERE workspace = ? AND digest = ?",
        (workspace, digest),
    ).fetchone()
    return SnapshotRecord(*row) if row else None


def add_complete(conn: sqlite3.Connection, directories: Iterable[DirectoryRecord]) -> None:
    """Notes directories as complete. Only for what was checked down to the last blob."""
    conn.executemany(
        "INSERT OR IGNORE INTO complete_directories VALUES (?, ?, ?)",
        [(known.digest, known.file_count, known.size_bytes) for known in directories],
    )


def find_complete(conn: sqlite3.Connection, digests: Iterable[str]) -> dict[str, DirectoryRecord]:
    """Gives those of these directories that are known to be complete, by digest."""
    wanted = list(digests)
    found: dict[str, DirectoryRecord] = {}
    for start in range(0, len(wanted), _VARIABLES):
        part = wanted[start : start + _VARIABLES]
        rows = conn.execute(
            "SELECT digest, file_count, size_bytes FROM complete_directories "
            f"WHERE digest IN ({', '.join('?' * len(part))})",
            part,
        )
        found.update((row[0], DirectoryRecord(*row)) for row in rows)
    return found
