from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from runyard_contract.errors import DatabaseNewer, HomeUnusable
from runyard_daemon.store import meta, migrations, workspaces
from runyard_daemon.store.database import Store
from support.records import NOW_US, fresh_database


def open_and_close(path: Path, version: str = "1.0") -> None:
    Store.open(path, version=version).close()


def test_open_makes_a_database_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"

    open_and_close(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_open_keeps_identity_and_records(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"

    async def write() -> meta.MetaRecord:
        store = Store.open(path)
        await store.write(lambda conn: workspaces.ensure(conn, "lab", NOW_US))
        known = store.peek(meta.get)
        store.close()
        return known

    known = asyncio.run(write())
    store = Store.open(path)
    again = store.peek(meta.get), store.peek(workspaces.names)
    store.close()

    assert again[0].instance_id == known.instance_id
    assert again[0].page_key == known.page_key
    assert again[1] == ["lab"]


def test_open_refuses_a_newer_database_and_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    open_and_close(path, version="9.1.0")
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {len(migrations.MIGRATIONS) + 1}")
    conn.close()
    before = path.read_bytes()

    with pytest.raises(DatabaseNewer) as caught:
        Store.open(path)

    assert "9.1.0" in caught.value.message
    assert "runyard==9.1.0" in caught.value.hint
    assert path.read_bytes() == before


def test_open_refuses_the_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE bookmarks (url TEXT)")
    conn.close()

    with pytest.raises(HomeUnusable, match="another program"):
        Store.open(path)


def test_open_says_that_the_database_is_damaged_when_it_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 100)

    with pytest.raises(HomeUnusable, match="damaged"):
        Store.open(path)


def test_open_finds_damage_when_the_daemon_before_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    conn = fresh_database(path)
    conn.execute("UPDATE meta SET is_clean = 0")
    conn.executemany(
        "INSERT INTO workspaces VALUES (?, 1)", [(f"workspace-{n:05}",) for n in range(2000)]
    )
    (page,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'runs'").fetchone()
    conn.close()
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(raw)

    with pytest.raises(HomeUnusable, match="damaged"):
        Store.open(path)


def test_reader_can_not_write(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "runyard.db")

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.peek(lambda conn: conn.execute("DELETE FROM workspaces"))

    store.close()


def test_read_sees_one_state_while_others_write(tmp_path: Path) -> None:
    async def go() -> tuple[list[str], list[str]]:
        store = Store.open(tmp_path / "runyard.db")
        loop = asyncio.get_running_loop()

        def twice(conn: sqlite3.Connection) -> tuple[list[str], list[str]]:
            before = workspaces.names(conn)
            written = store.write(lambda conn: workspaces.ensure(conn, "lab", NOW_US))
            asyncio.run_coroutine_threadsafe(written, loop).result()
            return before, workspaces.names(conn)

        found = await store.read(twice)
        await asyncio.to_thread(store.close)
        return found

    assert asyncio.run(go()) == ([], [])


def test_epochs_grow_over_restarts_and_restores(tmp_path: Path) -> None:
    conn = fresh_database(tmp_path / "runyard.db")

    first, second = meta.next_epochs(conn, 1)[0], meta.next_epochs(conn, 1)[0]
    meta.raise_incarnation(conn, 1)
    restored = meta.next_epochs(conn, 1)[0]

    assert 0 < first < second < restored
    conn.close()
