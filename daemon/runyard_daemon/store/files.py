"""Files of runs, by content: outputs, uploaded files, fetched working folders."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

_COLUMNS = "path, size_bytes, update_time_us, digest, is_chunked, is_executable"
_PUT = f"INSERT OR REPLACE INTO run_files (run_id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_GET = f"SELECT {_COLUMNS} FROM run_files WHERE run_id = ? AND path = ?"
_PAGE = f"""
    SELECT {_COLUMNS} FROM run_files
    WHERE run_id = ?1 AND path > ?2 AND path >= ?3 AND substr(path, 1, length(?3)) = ?3
    ORDER BY path LIMIT ?4
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of a run."""

    path: str
    """Relative, such as `outputs/model.pkl`."""
    size_bytes: int
    update_time_us: int
    digest: str
    """BLAKE3 of the bytes, hexadecimal, or of the chunk list where `is_chunked`."""
    is_chunked: bool = False
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class NeededFile:
    """The content of a registered file."""

    digest: str
    is_chunked: bool


def put(conn: sqlite3.Connection, run_id: str, files: Iterable[FileRecord]) -> None:
    """Registers files; a path that exists is replaced."""
    conn.executemany(
        _PUT,
        [
            (
                run_id,
                file.path,
                file.size_bytes,
                file.update_time_us,
                file.digest,
                file.is_chunked,
                file.is_executable,
            )
            for file in files
        ],
    )


def get(conn: sqlite3.Connection, run_id: str, path: str) -> FileRecord | None:
    """Gives a file; None: the run has none of that path."""
    row = conn.execute(_GET, (run_id, path)).fetchone()
    return _from_row(row) if row else None


def page(
    conn: sqlite3.Connection, run_id: str, prefix: str, after: str, limit: int
) -> list[FileRecord]:
    """Gives up to `limit` files by path that begin with `prefix`, behind `after` (or empty)."""
    rows = conn.execute(_PAGE, (run_id, after, prefix, limit))
    return [_from_row(row) for row in rows]


def paths(conn: sqlite3.Connection, run_id: str, limit: int = 1000) -> list[str]:
    """Gives paths in order, to suggest the nearest."""
    rows = conn.execute(
        "SELECT path FROM run_files WHERE run_id = ? ORDER BY path LIMIT ?", (run_id, limit)
    )
    return [path for (path,) in rows]


def _from_row(row: tuple[str, int, int, str, int, int]) -> FileRecord:
    return FileRecord(row[0], row[1], row[2], row[3], bool(row[4]), bool(row[5]))
