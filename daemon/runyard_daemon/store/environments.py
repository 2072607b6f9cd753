"""Environments by name and version, and the locks of their specifications."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

_COLUMNS = "workspace, name, version, spec_hash, spec, create_time_us"
_LOCK_COLUMNS = "spec_hash, platform, hash, text, create_time_us"
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
_LOCK = f"SELECT {_LOCK_COLUMNS} FROM environment_locks WHERE spec_hash = ? AND platform = ?"
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
class LockRecord:
    """A specification resolved for one platform and Python."""

    spec_hash: str
    platform: str
    hash: str
    """BLAKE3 of platform and text, hexadecimal."""
    text: str
    create_time_us: int


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
    row = conn.execute(_LOCK, (lock.spec_hash, lock.platform)).fetchone()
    if row is not None and (not is_refresh or row[2] == lock.hash):
        return LockRecord(*row)
    if row is not None:
        conn.execute(
            f"INSERT OR IGNORE INTO replaced_locks ({_LOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?)", row
        )
    conn.execute(
        f"INSERT OR REPLACE INTO environment_locks ({_LOCK_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
        (lock.spec_hash, lock.platform, lock.hash, lock.text, lock.create_time_us),
    )
    return lock


def lock_of_hash(conn: sqlite3.Connection, lock_hash: str) -> LockRecord | None:
    """Gives a lock that is or was kept; None: there never was one."""
    row = conn.execute(_LOCK_BY_HASH, (lock_hash,)).fetchone()
    return LockRecord(*row) if row else None


def locks(conn: sqlite3.Connection, spec_hash: str) -> list[LockRecord]:
    """Gives the locks of a specification, by platform."""
    rows = conn.execute(
        f"SELECT {_LOCK_COLUMNS} FROM environment_locks WHERE spec_hash = ? ORDER BY platform",
        (spec_hash,),
    )
    return [LockRecord(*row) for row in rows]
