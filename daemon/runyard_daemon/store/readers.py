"""Readers: connections that can neither write nor checkpoint, on threads of their own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from runyard_daemon.store.connection import open_reader

T = TypeVar("T")

_THREADS: Final = 4


class Readers:
    """Runs closures that read, each on one state of the database, beside the writer.

    Args:
        path: of the database, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="readers")
        self._inline: sqlite3.Connection | None = None

    async def read(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a closure on a reader's thread: for listings and everything of unknown size."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, closure)

    def peek(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a closure at once, on the caller's thread: for single rows by their key.

        Only from the one thread that runs the event loop. It costs some 20 µs and blocks the loop
        meanwhile; a hand-over to another thread costs more.
        """
        if self._inline is None:
            self._inline = self._open()
        return _in_snapshot(self._inline, closure)

    def close(self) -> None:
        """Waits for running closures and closes all connections."""
        self._pool.shutdown()
        for conn in self._opened:
            conn.close()
        self._opened.clear()
        self._inline = None

    def _call(self, closure: Callable[[sqlite3.Connection], T]) -> T:
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            conn = self._local.conn = self._open()
        return _in_snapshot(conn, closure)

    def _open(self) -> sqlite3.Connection:
        conn = open_reader(self._path)
        with self._lock:
            self._opened.append(conn)
        return conn


def _in_snapshot(conn: sqlite3.Connection, closure: Callable[[sqlite3.Connection], T]) -> T:
    """Gives all statements of a closure the same state of the database."""
    conn.execute("BEGIN")
    try:
        return closure(conn)
    finally:
        conn.execute("ROLLBACK")
