"""A copy of the whole database at one moment, and what is read from one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from runyard_daemon.store.connection import connect, open_reader
from runyard_daemon.store.faults import translate
from runyard_daemon.store.files import NeededFile


def copy_database(path: Path, copy: Path) -> None:
    """Writes the database as it is now to a new file, free space left out; writers go on.

    Blocks for as long as reading all of it takes. Raises DiskFull.
    """
    # A connection of its own, for the query needs one that may write; it changes nothing here and
    # is closed before the writer's, so it never checkpoints.
    conn = connect(path)
    try:
        conn.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        conn.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.Error as error:
        raise translate(error) from error
    finally:
        conn.close()


class DatabaseCopy:
    """Reads a copy. Iterators may be left unfinished; close it at the end."""

    def __init__(self, path: Path) -> None:
        self._conn = open_reader(path)

    def close(self) -> None:
        """Closes the copy."""
        self._conn.close()

    def runs(self) -> Iterator[tuple[str, str]]:
        """Experiment and id of every run, oldest first."""
        yield from self._conn.execute("SELECT experiment, run_id FROM runs ORDER BY seq")

    def snapshots(self) -> Iterator[str]:
        """The root of every snapshot."""
        for (digest,) in self._conn.execute("SELECT DISTINCT digest FROM snapshots"):
            yield digest

    def sealed(self) -> Iterator[str]:
        """The root of every sealed environment."""
        for (digest,) in self._conn.execute("SELECT DISTINCT digest FROM sealed_environments"):
            yield digest

    def files(self) -> Iterator[NeededFile]:
        """The content of every registered file."""
        rows = self._conn.execute("SELECT DISTINCT digest, is_chunked FROM run_files")
        for digest, is_chunked in rows:
            yield NeededFile(digest, bool(is_chunked))
