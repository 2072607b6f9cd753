from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runyard_contract.errors import DiskFull, Draining, ReadOnly, WriterBusy
from runyard_daemon.store import connection
from runyard_daemon.store.writer import Writer

DEADLINE_S = 20.0


class FailingConnection(sqlite3.Connection):
    """A disk that fails as told: the error for the next statement that starts so."""

    fault: tuple[str, str] | None = None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if self.fault and sql.startswith(self.fault[0]):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = self.fault[1]
            self.fault = None
            raise error
        return super().execute(sql, *args)


def make_table(path: Path) -> None:
    conn = sqlite3.connect(path)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY, pad TEXT) STRICT")
    conn.commit()
    conn.close()


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[tuple[Writer, FailingConnection]]:
    make_table(path)
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, factory=FailingConnection
    )
    connection.make_writer(conn)
    writer = Writer(conn, path, **options)
    try:
        yield writer, conn
    finally:
        await asyncio.to_thread(writer.close)


def insert(x: int) -> Callable[[sqlite3.Connection], None]:
    return lambda conn: conn.execute("INSERT INTO t (x) VALUES (?)", (x,)) and None


def rows(path: Path) -> list[int]:
    conn = sqlite3.connect(path)
    found = [x for (x,) in conn.execute("SELECT x FROM t ORDER BY x")]
    conn.close()
    return found


def test_write_is_seen_by_another_connection_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def go() -> list[int]:
        async with opened(path) as (writer, _):
            await writer.write(insert(7))
            return rows(path)

    assert asyncio.run(go()) == [7]


def test_write_that_fails_is_undone_alone_when_others_share_its_group(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def bad(conn: sqlite3.Connection) -> None:
        conn.execute("INSERT INTO t (x) VALUES (1000)")
        raise ValueError("no")

    async def go() -> list[BaseException | None]:
        async with opened(path) as (writer, _):
            jobs = [writer.write(insert(x)) for x in range(300)]
            jobs.insert(150, writer.write(bad))
            jobs.append(writer.write(insert(1)))
            return await asyncio.gather(*jobs, return_exceptions=True)

    failed = [type(result) for result in asyncio.run(go()) if result is not None]

    assert failed == [ValueError, sqlite3.IntegrityError]
    assert rows(path) == list(range(300))


def test_write_is_kept_when_its_caller_was_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def go() -> None:
        async with opened(path) as (writer, _), asyncio.TaskGroup() as group:
            task = group.create_task(writer.write(insert(1)))
            await asyncio.sleep(0)
            task.cancel()

    asyncio.run(go())

    assert rows(path) == [1]


def test_write_is_refused_when_too_many_wait(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    may_go_on = threading.Event()

    async def go() -> list[BaseException | None]:
        async with opened(path, limit=3) as (writer, _):
            first = asyncio.ensure_future(writer.write(lambda _: may_go_on.wait() and None))
            rest = [asyncio.ensure_future(writer.write(insert(x))) for x in range(4)]
            await asyncio.sleep(0)
            may_go_on.set()
            return await asyncio.gather(first, *rest, return_exceptions=True)

    results = asyncio.run(go())

    assert [type(result) for result in results if result] == [WriterBusy, WriterBusy]
    assert rows(path) == [0, 1]


def test_write_says_disk_full_and_goes_on_when_space_is_back(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def fill(conn: sqlite3.Connection) -> None:
        conn.execute("INSERT INTO t VALUES (1, ?)", ("x" * 100_000,))

    async def go() -> None:
        async with opened(path) as (writer, conn):
            await writer.write(insert(0))
            conn.execute("PRAGMA max_page_count = 4")
            with pytest.raises(DiskFull) as caught:
                await writer.write(fill)
            assert caught.value.metadata["sqlite_error"] == "SQLITE_FULL"
            conn.execute("PRAGMA max_page_count = 1000000")
            await writer.write(insert(2))

    asyncio.run(go())

    assert rows(path) == [0, 2]


def test_write_says_read_only_when_the_database_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def go() -> None:
        async with opened(path) as (writer, conn):
            conn.execute("PRAGMA query_only = ON")
            with pytest.raises(ReadOnly):
                await writer.write(insert(0))
            conn.execute("PRAGMA query_only = OFF")

    asyncio.run(go())

    assert rows(path) == []


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT"])
def test_write_is_answered_and_undone_when_another_program_holds_the_database(
    tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "a.db"

    async def go() -> None:
        async with opened(path) as (writer, conn):
            conn.fault = (statement, "SQLITE_BUSY")
            with pytest.raises(WriterBusy):
                await writer.write(insert(0))
            await writer.write(insert(1))

    asyncio.run(go())

    assert rows(path) == [1]


def test_nothing_is_acknowledged_any_more_when_a_sync_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    causes: list[str] = []

    async def go() -> None:
        async with opened(path, on_fatal=causes.append) as (writer, conn):
            conn.fault = ("COMMIT", "SQLITE_IOERR_FSYNC")
            with pytest.raises(Draining):
                await writer.write(insert(0))
            with pytest.raises(Draining):
                await writer.write(insert(1))

    asyncio.run(go())

    assert causes == ["disk I/O error"]
    assert rows(path) == []


def test_nothing_is_acknowledged_any_more_when_the_file_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    causes: list[str] = []

    async def go() -> None:
        async with opened(path, on_fatal=causes.append) as (writer, _):
            await writer.write(insert(0))
            os.rename(path, tmp_path / "moved.db")
            make_table(path)
            with pytest.raises(Draining):
                await writer.write(insert(1))

    asyncio.run(go())

    assert causes == ["the file runyard.db was moved or replaced"]
    assert rows(path) == []


def test_close_commits_what_waits_and_refuses_what_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def go() -> None:
        async with opened(path) as (writer, _):
            waiting = [asyncio.ensure_future(writer.write(insert(x))) for x in range(600)]
            await asyncio.sleep(0)
            await asyncio.to_thread(writer.close)
            await asyncio.gather(*waiting)
            with pytest.raises(Draining):
                await writer.write(insert(1000))

    asyncio.run(go())

    assert rows(path) == list(range(600))


def test_log_is_moved_into_the_database_when_nobody_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def many(conn: sqlite3.Connection) -> None:
        conn.executemany("INSERT INTO t VALUES (?, ?)", [(x, "x" * 100) for x in range(5000)])

    async def go() -> None:
        async with opened(path) as (writer, _):
            before_bytes = path.stat().st_size
            await writer.write(many)
            async with asyncio.timeout(DEADLINE_S):
                while path.stat().st_size == before_bytes:  # noqa: ASYNC110  nothing tells of it
                    await asyncio.sleep(0.005)

    asyncio.run(go())

    assert path.stat().st_size > 5000 * 100
