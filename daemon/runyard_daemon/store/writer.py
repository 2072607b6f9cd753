"""The single writer: group commit on a thread of its own.

All closures that wait are run in one transaction, each in a SAVEPOINT, so that one that fails is
undone alone; after the COMMIT, which is durable, all their callers are answered at once. What they
were answered is therefore on disk whatever happens next.

Checkpoints are made by this thread only, after the answers and, as long as that is possible, while
nobody waits: a submit never pays for one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from runyard_contract.errors import Draining, WriterBusy
from runyard_daemon.core.histogram import Histogram
from runyard_daemon.store import faults

T = TypeVar("T")
Closure = Callable[[sqlite3.Connection], T]
"""Short, SQL only, no other I/O. May run on another thread than its caller's."""

_log = logging.getLogger(__name__)

_GROUP: Final = 256
_IDLE_S: Final = 0.05  # without work for that long, a checkpoint disturbs nobody
_CHECKPOINT_ROWS: Final = 2000  # changed since the last one, when idle; a submit changes about 15
_CHECKPOINT_AT_LATEST_ROWS: Final = 40_000


@dataclass(slots=True)
class _Job:
    """A closure that waits for its transaction."""

    run: Closure[Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the connection that writes and checkpoints.

    Args:
        conn: from `connection.open_writer`; belongs to the writer from now on.
        path: of the database. A file that was put in its place ends the writer.
        limit: closures that may wait; more get WriterBusy.
        on_fatal: called once, on the writer's thread, when nothing may be acknowledged any more:
            the daemon should end. Every later write raises Draining.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        *,
        limit: int = 10_000,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        self._conn = conn
        self._path = path
        self._file = _identity(path)
        self._limit = limit
        self._on_fatal = on_fatal
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Each counter has one writing thread, so that neither needs a lock.
        self._accepted = 0
        self._settled = 0
        self._checkpointed_rows = conn.total_changes
        self._is_closed = False
        self._last: Closure[None] | None = None
        self._fatal = ""
        self.commits = Histogram()
        """How long each group took, from the first statement to the durable end."""
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, closure: Closure[T]) -> T:
        """Runs a closure in a transaction; returns what it returned, after a durable COMMIT.

        Raises what the closure raised, with its changes undone; DiskFull, ReadOnly or WriterBusy
        where nothing could be written; Draining where the writer is closed or was stopped by a
        fault of the disk. A cancelled caller does not undo the write: repeat it with the same
        request id.
        """
        if self._fatal:
            raise faults.stopped(self._fatal)
        if self._is_closed:
            raise Draining("the daemon is stopping", hint="try again in a few seconds")
        if self._accepted - self._settled >= self._limit:
            raise WriterBusy(
                f"{self._limit} writes wait for the daemon's disk",
                hint="try again; the command does so by itself",
                waiting=str(self._limit),
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._accepted += 1
        self._queue.put(_Job(closure, future, loop))
        return await future

    def close(self, last: Closure[None] | None = None) -> None:
        """Commits what waits and `last`, ends the thread, closes the connection. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._last = last
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        """Takes what waits, commits it, answers; checkpoints when nobody waits."""
        is_open = True
        while is_open:
            group, is_open = self._take()
            if group:
                self._commit(group)
                self._settle(group)
            due_rows = _CHECKPOINT_AT_LATEST_ROWS if group else _CHECKPOINT_ROWS
            if self._log_rows() >= due_rows:
                self._checkpoint()
        self._end()

    def _end(self) -> None:
        """Runs the last closure and closes the connection, which checkpoints."""
        try:
            if self._last is not None and not self._fatal:
                self._last(self._conn)
            self._conn.close()
        except sqlite3.Error as error:
            # All that was acknowledged is in the log already.
            _log.warning("store.close_failed", extra={"error": str(error)})

    def _take(self) -> tuple[list[_Job], bool]:
        """Waits for work and takes all there is, up to a group; False: closed.

        An empty group means that a checkpoint is due and that there was nothing else to do.
        """
        timeout_s = _IDLE_S if self._log_rows() >= _CHECKPOINT_ROWS else None
        group: list[_Job] = []
        try:
            job = self._queue.get(timeout=timeout_s)
            while job is not None:
                group.append(job)
                if len(group) == _GROUP:
                    return group, True
                job = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _commit(self, group: list[_Job]) -> None:
        """Runs a group in one transaction and notes in each job what its caller gets."""
        if self._fatal:
            _fail(group, faults.stopped(self._fatal))
            return
        conn = self._conn
        began_s = time.perf_counter()
        try:
            conn.execute("BEGIN IMMEDIATE")
            for job in group:
                self._run_one(job)
            conn.execute("COMMIT")
            self.commits.observe(time.perf_counter() - began_s)
        except sqlite3.Error as error:
            # Nobody in the group is acknowledged. SQLite has often rolled back by itself.
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            _fail(group, faults.translate(error))
            if faults.is_fatal(error):
                self._stop(f"{error}", group)
            return
        if _identity(self._path) != self._file:
            self._stop("the file runyard.db was moved or replaced", group)

    def _run_one(self, job: _Job) -> None:
        """Runs one closure in its SAVEPOINT. Raises sqlite3.Error where the group is lost."""
        conn = self._conn
        conn.execute("SAVEPOINT one")
        try:
            job.result = job.run(conn)
        except Exception as error:  # the edge between a caller's closure and this thread
            if not conn.in_transaction:
                # SQLite gave up the whole transaction (a full disk, an I/O error).
                raise _as_sqlite(error) from error
            conn.execute("ROLLBACK TO one")
            job.error = faults.translate(error) if isinstance(error, sqlite3.Error) else error
        conn.execute("RELEASE one")

    def _settle(self, group: list[_Job]) -> None:
        """Answers all callers of a group, each event loop with one wake-up."""
        self._settled += len(group)
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in group:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, jobs in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, jobs)

    def _log_rows(self) -> int:
        """How many rows were changed since the last checkpoint: what the log's size goes by."""
        return self._conn.total_changes - self._checkpointed_rows

    def _checkpoint(self) -> None:
        """Moves committed pages from the log into the database, as far as no reader needs them."""
        self._checkpointed_rows = self._conn.total_changes
        try:
            self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("store.checkpoint_failed", extra={"error": str(error)})
            if faults.is_fatal(error):
                self._stop(str(error), [])

    def _stop(self, cause: str, group: list[_Job]) -> None:
        """Ends all acknowledgements: what was written may not be there tomorrow."""
        self._fatal = cause
        _fail(group, faults.stopped(cause))
        _log.critical("store.stopped", extra={"cause": cause})
        if self._on_fatal is not None:
            self._on_fatal(cause)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path; None: none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _as_sqlite(error: Exception) -> sqlite3.Error:
    """The error of SQLite behind what a closure raised when its transaction was gone."""
    for found in (error, error.__cause__, error.__context__):
        if isinstance(found, sqlite3.Error):
            return found
    return sqlite3.OperationalError(str(error))


def _fail(group: list[_Job], error: Exception) -> None:
    """Gives all callers of a group the same error."""
    for job in group:
        job.result, job.error = None, error


def _answer(jobs: list[_Job]) -> None:
    """Resolves the futures of callers that still wait, on their own event loop."""
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
