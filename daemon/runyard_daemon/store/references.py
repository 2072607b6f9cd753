"""Which content the records name: whatever names a blob in a table is listed here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

_SNAPSHOTS = "SELECT digest FROM snapshots UNION SELECT snapshot FROM runs WHERE snapshot <> ''"
_FILES = "SELECT DISTINCT digest FROM run_files WHERE is_chunked = ?"


@dataclass(frozen=True, slots=True)
class Roots:
    """Digests that records name. Environment locks are kept in the records themselves."""

    snapshots: frozenset[str] = frozenset()
    """Of root manifests."""
    files: frozenset[str] = frozenset()
    """Of whole files of runs."""
    chunk_lists: frozenset[str] = frozenset()
    """Of the chunk lists of runs' large files."""


def roots(conn: sqlite3.Connection) -> Roots:
    """Gives all that the records name, as of one moment."""

    def digests(query: str, *values: object) -> frozenset[str]:
        return frozenset(digest for (digest,) in conn.execute(query, values))

    return Roots(digests(_SNAPSHOTS), digests(_FILES, False), digests(_FILES, True))


def complete_directories(conn: sqlite3.Connection) -> list[str]:
    """Gives the digests of all directories that are known to be complete."""
    return [digest for (digest,) in conn.execute("SELECT digest FROM complete_directories")]


def forget_complete(conn: sqlite3.Connection, digests: Iterable[str]) -> None:
    """Drops directories from those known to be complete: the next snapshot walks them again."""
    conn.executemany(
        "DELETE FROM complete_directories WHERE digest = ?", [(digest,) for digest in digests]
    )
