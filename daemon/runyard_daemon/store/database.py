"""The store: one database, one writer, readers beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from runyard_daemon.core.histogram import Histogram
from runyard_daemon.store import migrations
from runyard_daemon.store.connection import check_place, connect, make_writer
from runyard_daemon.store.faults import failed, is_damage, is_fatal, translate
from runyard_daemon.store.readers import Readers
from runyard_daemon.store.writer import Writer

T = TypeVar("T")

# A quick check reads the whole file: some 60 ms here. A larger database would delay the start.
_CHECK_MAX_BYTES: Final = 32 << 20


class Store:
    """Opens a database and runs closures on it. Made by `Store.open`."""

    def __init__(self, path: Path, writer: Writer, readers: Readers) -> None:
        self.path = path
        """Of the database."""
        self._writer = writer
        self._readers = readers

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        version: str = "",
        on_fatal: Callable[[str], None] | None = None,
    ) -> Store:
        """Opens the database at `path`, made where there is none, and brings its schema up.

        The caller must hold the data directory's lock. After an unclean stop a small database is
        checked. `version` is the daemon's, for the error that an older one gives later. `on_fatal`
        is called once, with the cause, from another thread, when the disk has failed such that
        nothing may be acknowledged any more.

        Raises DatabaseNewer, ReadOnly, DiskFull, DiskFailed, and HomeUnusable for a damaged or
        foreign database and for links at its place.
        """
        check_place(path)
        conn: sqlite3.Connection | None = None
        try:
            conn = connect(path)
            # First of all: what a newer version wrote is left as it is.
            migrations.check_known(conn, path)
            make_writer(conn)
            migrations.migrate(conn, path)
            _check_after_crash(conn, path)
            conn.execute("UPDATE meta SET is_clean = 0, written_by = ?", (version,))
            writer = Writer(conn, path, on_fatal=on_fatal)
        except BaseException as error:
            if conn is not None:
                conn.close()
            if isinstance(error, sqlite3.Error):
                raise _opening_failed(error, path) from error
            raise
        return cls(path, writer, Readers(path))

    @property
    def commits(self) -> Histogram:
        """How long durable commits took."""
        return self._writer.commits

    async def write(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a closure in a transaction and returns after it is durable: see `Writer.write`."""
        return await self._writer.write(closure)

    async def read(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a closure that reads, on another thread: see `Readers.read`."""
        return await self._readers.read(closure)

    def peek(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a closure that reads single rows, at once: see `Readers.peek`."""
        return self._readers.peek(closure)

    def close(self) -> None:
        """Commits what waits and closes all. Blocks; nothing may be written or read after it."""
        # Readers first: the connection that is closed last checkpoints.
        self._readers.close()
        self._writer.close(_mark_clean)


def _mark_clean(conn: sqlite3.Connection) -> None:
    """Notes that the database was closed in good order: the next start need not check it."""
    conn.execute("UPDATE meta SET is_clean = 1")


def _check_after_crash(conn: sqlite3.Connection, path: Path) -> None:
    """Checks a database that was not closed in good order, if it is small."""
    (is_clean,) = conn.execute("SELECT is_clean FROM meta").fetchone()
    if is_clean or path.stat().st_size > _CHECK_MAX_BYTES:
        return
    (found,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise migrations.damaged(path, found)


def _opening_failed(error: sqlite3.Error, path: Path) -> Exception:
    """The error for a database that could not be opened."""
    if is_damage(error):
        return migrations.damaged(path, str(error))
    return failed(error) if is_fatal(error) else translate(error)
