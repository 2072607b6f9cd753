"""Connections to the database and the checks before the first one."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from runyard_contract.errors import HomeUnusable, ReadOnly

_MIN_SQLITE: Final = (3, 37, 0)  # STRICT tables; RETURNING came before
_BUSY_TIMEOUT_MS: Final = 5000
_STATEMENTS: Final = 256
_WRITER_CACHE_KIB: Final = 8192
_READER_CACHE_KIB: Final = 1024

INCREMENTAL: Final = 2
"""The mode of auto_vacuum in which free pages are given back when they are asked for."""


def check_place(path: Path) -> None:
    """Refuses a place where a database would be lost, or be another's. Creates an empty file.

    Raises HomeUnusable for a link or another file type at the database or beside it, and for an
    SQLite that is too old; ReadOnly where the file system can't be written.
    """
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise HomeUnusable(
            f"this Python has SQLite {sqlite3.sqlite_version}, "
            f"{'.'.join(map(str, _MIN_SQLITE))} or newer is needed",
            hint="use another Python, such as one of `uv python install 3.12`",
            sqlite_version=sqlite3.sqlite_version,
        )
    for suffix in ("", "-wal", "-shm", "-journal"):
        _check_plain(path.with_name(path.name + suffix))
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise ReadOnly(
            f"the file system of {path.parent} is read-only",
            hint="mount it for writing, or set RUNYARD_HOME to a folder that can be written",
            path=str(path),
        )
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise ReadOnly(
            f"{path} can't be opened for writing",
            hint="give the daemon's account the file, or set RUNYARD_HOME to another folder",
            path=str(path),
        ) from error
    os.close(fd)


def _check_plain(path: Path) -> None:
    """Refuses anything but a plain file with one name: SQLite would follow links in writing."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return
    what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no plain file of its own"
    raise HomeUnusable(
        f"{path} is {what}: the daemon does not write through it",
        hint=f"find out who made it, move it away (`ls -l {path.parent}`), then try again",
        path=str(path),
    )


def connect(path: Path, cache_kib: int = _WRITER_CACHE_KIB) -> sqlite3.Connection:
    """Opens a connection without reading or writing anything yet."""
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    conn.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}").fetchone()
    conn.execute(f"PRAGMA cache_size = -{cache_kib}")
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn


def make_writer(conn: sqlite3.Connection) -> None:
    """Makes this the only connection that writes and checkpoints, each commit durable."""
    # Takes effect on a new database only, and only before its first page is written.
    conn.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
    conn.execute("PRAGMA journal_mode = WAL").fetchone()
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    # The writer checkpoints itself, after its acknowledgements: see `writer`.
    conn.execute("PRAGMA wal_autocheckpoint = 0").fetchone()


def open_reader(path: Path) -> sqlite3.Connection:
    """Opens a connection that can neither write nor checkpoint."""
    conn = connect(path, _READER_CACHE_KIB)
    conn.execute("PRAGMA query_only = ON")
    conn.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
    return conn
