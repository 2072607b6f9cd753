"""Which content the records name: whatever names a blob in a table is listed here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

# Runs that were numbered before the newest one may be written after it, but not that many.
_LATE_RUNS = 10_000
_USED = "SELECT DISTINCT snapshot FROM runs WHERE snapshot <> '' AND seq > ?"
_DECLARED = "SELECT digest, create_time_us FROM snapshots"
_SEALED = "SELECT DISTINCT digest FROM sealed_environments"
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
    sealed: frozenset[str] = frozenset()
    """Of the trees of sealed environments. One that is damaged keeps nobody from anything: it can
    be made again."""


@dataclass(frozen=True, slots=True)
class Unused:
    """Snapshots that no run used at one moment."""

    snapshots: frozenset[str]
    last_sequence: int
    """Of the newest run at that moment."""


def unused_snapshots(conn: sqlite3.Connection, until_us: int) -> Unused:
    """Gives the snapshots that no run uses and that were declared until some time."""
    (last,) = conn.execute("SELECT coalesce(max(seq), 0) FROM runs").fetchone()
    used = _used(conn, 0)
    declared = [digest for digest, at_us in conn.execute(_DECLARED) if at_us <= until_us]
    return Unused(frozenset(declared) - used, last)


def forget_snapshots(conn: sqlite3.Connection, unused: Unused) -> None:
    """Drops those that no run uses still: a submit names them again, or is told to declare."""
    gone = unused.snapshots - _used(conn, unused.last_sequence - _LATE_RUNS)
    conn.executemany("DELETE FROM snapshots WHERE digest = ?", [(digest,) for digest in gone])


def roots(conn: sqlite3.Connection, unused: Unused) -> Roots:
    """Gives all that the records name, as of one moment, but for snapshots that are to go."""

    def digests(is_chunked: bool) -> frozenset[str]:
        return frozenset(digest for (digest,) in conn.execute(_FILES, (is_chunked,)))

    declared = frozenset(digest for digest, _ in conn.execute(_DECLARED))
    snapshots = (declared - unused.snapshots) | _used(conn, 0)
    sealed = frozenset(digest for (digest,) in conn.execute(_SEALED))
    return Roots(snapshots, digests(False), digests(True), sealed)


def _used(conn: sqlite3.Connection, after_sequence: int) -> frozenset[str]:
    """The snapshots of all runs behind a sequence."""
    return frozenset(digest for (digest,) in conn.execute(_USED, (after_sequence,)))


def complete_directories(conn: sqlite3.Connection) -> list[str]:
    """Gives the digests of all directories that are known to be complete."""
    return [digest for (digest,) in conn.execute("SELECT digest FROM complete_directories")]


def forget_complete(conn: sqlite3.Connection, digests: Iterable[str]) -> None:
    """Drops directories from those known to be complete: the next snapshot walks them again."""
    conn.executemany(
        "DELETE FROM complete_directories WHERE digest = ?", [(digest,) for digest in digests]
    )
