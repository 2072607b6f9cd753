"""Environments by name and version, and the locks of their specifications."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

_COLUMNS = "workspace, name, version, spec_hash, spec, create_time_us"
_LOCK_COLUMNS = "spec_hash, platform, hash, text, create_time_us"
_SEALED_COLUMNS = "lock_hash, digest, file_count, size_bytes, create_time_us, node"
_LOCKS = """
    SELECT l.spec_hash, l.platform, l.hash, l.text, l.create_time_us,
        s.lock_hash, s.digest, s.file_count, s.size_bytes, s.create_time_us, s.node
    FROM environment_locks l LEFT JOIN sealed_environments s ON s.lock_hash = l.hash
    WHERE l.spec_hash = ?
"""
_GET = f"SELECT {_COLUMNS} FROM environments WHERE workspace = ? AND name = ? AND version = ?"
_NEWEST = (
    f"SELECT {_COLUMNS} FROM environments WHERE workspace = ? AND name = ? "
    "ORDER BY version DESC LIMIT 1"
)
_SAME = f"SELECT {_COLUMNS} FROM environments WHERE workspace = ? AND name = ? AND spec_hash = ?"
_REPLACE = (
    "UPDATE environments SET spec = ? WHERE workspace = ? AND name = ? AND version = ? "
    f"RETURNING {_COLUMNS}"
)
_LOCK_BY_HASH = f"""
    SELECT {_LOCK_COLUMNS} FROM environment_locks WHERE hash = ?1
    UNION ALL SELECT {_LOCK_COLUMNS} FROM replaced_locks WHERE hash = ?1 LIMIT 1
"""
_PAGE = f"""
    SELECT {_COLUMNS} FROM environments e WHERE workspace = ? AND name > ? AND version =
        (SELECT max(version) FROM environments WHERE workspace = e.workspace AND name = e.name)
    ORDER BY name LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """One version of a named environment."""

    workspace: str
    name: str
    version: int
    """From 1."""
    spec_hash: str
    """BLAKE3 of the canonical specification, hexadecimal."""
    spec: bytes
    """The serialized specification."""
    create_time_us: int


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A built environment that nodes fetch instead of building it."""

    lock_hash: str
    digest: str
    """Of the root of its tree, hexadecimal."""
    file_count: int
    """Different ones."""
    size_bytes: int
    create_time_us: int
    node: str
    """Target and node that built it; empty: it was imported."""


@dataclass(frozen=True, slots=True)
class LockRecord:
    """A specification resolved for one platform and Python."""

    spec_hash: str
    platform: str
    hash: str
    """BLAKE3 of platform and text, hexadecimal."""
    text: str
    create_time_us: int
    sealed: SealedRecord | None = None
    """What is built of it, where somebody sealed that."""


def put(
    conn: sqlite3.Connection, workspace: str, name: str, spec_hash: str, spec: bytes, now_us: int
) -> EnvironmentRecord:
    """Keeps an environment under a name: the same content is the same version, other the next.

    What the hash leaves out, such as the interpreter to build on, is taken from the newest call.
    """
    row = conn.execute(_SAME, (workspace, name, spec_hash)).fetchone()
    if row is None:
        newest = get(conn, workspace, name)
        version, spelled = (newest.version + 1, newest.name) if newest else (1, name)
        row = (workspace, spelled, version, spec_hash, spec, now_us)
        conn.execute(f"INSERT INTO environments ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)
    elif row[4] != spec:
        (row,) = conn.execute(_REPLACE, (spec, workspace, name, row[2])).fetchall()
    return EnvironmentRecord(*row)


def get(
    conn: sqlite3.Connection, workspace: str, name: str, version: int | None = None
) -> EnvironmentRecord | None:
    """Gives a version of an environment, the newest without a number; None: there is none."""
    if version is None:
        row = conn.execute(_NEWEST, (workspace, name)).fetchone()
    else:
        row = conn.execute(_GET, (workspace, name, version)).fetchone()
    return EnvironmentRecord(*row) if row else None


def page(
    conn: sqlite3.Connection, workspace: str, after: str, limit: int
) -> list[EnvironmentRecord]:
    """Gives up to `limit` environments by name, the newest version of each, behind `after`."""
    return [EnvironmentRecord(*row) for row in conn.execute(_PAGE, (workspace, after, limit))]


def names(conn: sqlite3.Connection, workspace: str, limit: int = 1000) -> list[str]:
    """Gives names in order, to suggest the nearest."""
    rows = conn.execute(
        "SELECT DISTINCT name FROM environments WHERE workspace = ? ORDER BY name LIMIT ?",
        (workspace, limit),
    )
    return [name for (name,) in rows]


def keep_lock(
    conn: sqlite3.Connection, lock: LockRecord, *, is_refresh: bool = False
) -> LockRecord:
    """Keeps a lock unless there is one for its specification and platform; gives what counts.

    With `is_refresh` it takes the place of that one, which is still found by its hash.
    """
    before = _lock(conn, lock.spec_hash, lock.platform)
    if before is not None and (not is_refresh or before.hash == lock.hash):
        return before
    if before is not None:
        conn.execute(
            f"INSERT OR IGNORE INTO replaced_locks ({_LOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
            _lock_row(before),
        )
    conn.execute(
        f"INSERT OR REPLACE INTO environment_locks ({_LOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
        _lock_row(lock),
    )
    return _lock(conn, lock.spec_hash, lock.platform) or lock


def replace_lock(conn: sqlite3.Connection, lock: LockRecord) -> bool:
    """Keeps a lock in the place of any other for its specification and platform.

    Gives whether there was another one.
    """
    before = _lock(conn, lock.spec_hash, lock.platform)
    keep_lock(conn, lock, is_refresh=True)
    return before is not None and before.hash != lock.hash


def lock_of_hash(conn: sqlite3.Connection, lock_hash: str) -> LockRecord | None:
    """Gives a lock that is or was kept; None: there never was one."""
    row = conn.execute(_LOCK_BY_HASH, (lock_hash,)).fetchone()
    return LockRecord(*row) if row else None


def locks(conn: sqlite3.Connection, spec_hash: str) -> list[LockRecord]:
    """Gives the locks of a specification, by platform, with what is sealed of them."""
    rows = conn.execute(f"{_LOCKS} ORDER BY l.platform", (spec_hash,))
    return [_lock_of(row) for row in rows]


def keep_sealed(conn: sqlite3.Connection, sealed: SealedRecord) -> SealedRecord:
    """Keeps what is built of a lock, in the place of what was sealed of it before."""
    conn.execute(
        f"INSERT OR REPLACE INTO sealed_environments ({_SEALED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (
            sealed.lock_hash,
            sealed.digest,
            sealed.file_count,
            sealed.size_bytes,
            sealed.create_time_us,
            sealed.node,
        ),
    )
    return sealed


def _lock(conn: sqlite3.Connection, spec_hash: str, platform: str) -> LockRecord | None:
    row = conn.execute(f"{_LOCKS} AND l.platform = ?", (spec_hash, platform)).fetchone()
    return _lock_of(row) if row else None


def _lock_row(lock: LockRecord) -> tuple[str, str, str, str, int]:
    return lock.spec_hash, lock.platform, lock.hash, lock.text, lock.create_time_us


def _lock_of(row: tuple[Any, ...]) -> LockRecord:
    sealed = SealedRecord(*row[5:]) if row[5] is not None else None
    return LockRecord(row[0], row[1], row[2], row[3], row[4], sealed)
