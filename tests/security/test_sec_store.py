"""Rows 36 and 38 of the threats: abuse of request ids, and attacks on the data directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runyard_contract.errors import (
    DatabaseNewer,
    Draining,
    HomeUnusable,
    RequestIdInvalid,
    RequestIdReused,
)
from runyard_daemon.store import migrations, requests, workspaces
from runyard_daemon.store.database import Store
from support.records import NOW_US, fresh_database, request_uuid, submit

HASH = "body"


# ---- 36: request ids


def test_sec_36_same_request_id_with_another_body_has_no_effect(tmp_path: Path) -> None:
    conn = fresh_database(tmp_path / "runyard.db")
    first = submit(request_uuid(1), HASH, 1)(conn)

    with pytest.raises(RequestIdReused):
        submit(request_uuid(1), "another body", 2)(conn)

    assert conn.execute("SELECT run_id FROM runs").fetchall() == [(first,)]
    conn.close()


def test_sec_36_request_id_of_another_principal_tells_nothing(tmp_path: Path) -> None:
    conn = fresh_database(tmp_path / "runyard.db")
    ada = requests.request_key("ada", "CreateRun", request_uuid(1))
    mallory = requests.request_key("mallory", "CreateRun", request_uuid(1))
    requests.keep(conn, ada, HASH, b"ada's run", NOW_US)

    assert requests.find(conn, mallory, HASH) is None
    assert requests.find(conn, mallory, "guess") is None

    requests.keep(conn, mallory, HASH, b"mallory's run", NOW_US)
    assert requests.find(conn, ada, HASH) == b"ada's run"
    conn.close()


def test_sec_36_request_id_of_another_rpc_is_another_request(tmp_path: Path) -> None:
    conn = fresh_database(tmp_path / "runyard.db")
    key = requests.request_key("ada", "CreateRun", request_uuid(1))
    requests.keep(conn, key, HASH, b"a run", NOW_US)

    other = requests.request_key("ada", "CreateEnvironment", request_uuid(1))

    assert requests.find(conn, other, HASH) is None
    conn.close()


@pytest.mark.parametrize(
    "text",
    ["x", "../../etc/passwd", "'; DROP TABLE runs; --", "\0" * 36, "0" * 10_000_000, "\u2013" * 36],
)
def test_sec_36_request_id_that_is_no_uuid_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(RequestIdInvalid) as caught:
        requests.request_key("mallory", "CreateRun", text)

    assert len(caught.value.message) < 400


def test_sec_36_flood_of_request_ids_is_gone_after_seven_days(tmp_path: Path) -> None:
    conn = fresh_database(tmp_path / "runyard.db")
    conn.execute("BEGIN")
    for n in range(5000):
        key = requests.request_key("mallory", "CreateRun", request_uuid(n))
        requests.keep(conn, key, HASH, b"answer", NOW_US + n)
    conn.execute("COMMIT")
    later_us = NOW_US + requests.KEEP_S * 1_000_000 + 5000

    removed = 0
    while count := requests.prune(conn, later_us):
        assert count <= 1000, "one transaction must stay short"
        removed += count

    assert removed == 5000
    assert conn.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    conn.close()


# ---- 38: the data directory


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_sec_38_link_at_the_database_is_refused_and_its_target_unchanged(
    tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / "victim"
    target.write_bytes(b"precious")
    path = tmp_path / "home" / "runyard.db"
    path.parent.mkdir()
    planted = path.with_name(path.name + suffix)
    planted.symlink_to(target)

    with pytest.raises(HomeUnusable, match="symbolic link") as caught:
        Store.open(path)

    assert caught.value.metadata["path"] == str(planted)
    assert target.read_bytes() == b"precious"
    assert planted.is_symlink()


def test_sec_38_dangling_link_makes_no_file_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(HomeUnusable):
        Store.open(path)

    assert not (tmp_path / "elsewhere").exists()


def test_sec_38_second_name_of_the_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    Store.open(path).close()
    os.link(path, tmp_path / "also.db")

    with pytest.raises(HomeUnusable):
        Store.open(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_sec_38_what_is_no_file_is_refused_without_waiting_for_it(
    tmp_path: Path, make: object
) -> None:
    path = tmp_path / "runyard.db"
    assert callable(make)
    make(path)

    with pytest.raises(HomeUnusable):
        Store.open(path)


def test_sec_38_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    fresh_database(path).close()
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {len(migrations.MIGRATIONS) + 1}")
    conn.close()
    before = path.read_bytes()

    with pytest.raises(DatabaseNewer) as caught:
        Store.open(path)

    assert "RUNYARD_HOME" in caught.value.hint
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["runyard.db"]


OPEN_ON_READ_ONLY = """
import subprocess, sys
from pathlib import Path
from runyard_contract.errors import ReadOnly
from runyard_daemon.store.database import Store
home = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], check=True)
try:
    Store.open(home / "runyard.db")
except ReadOnly as error:
    print(error.reason, "RUNYARD_HOME" in error.hint, list(home.iterdir()))
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="this machine lets no user mount a read-only file system in a namespace",
)
def test_sec_38_read_only_file_system_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", OPEN_ON_READ_ONLY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )

    assert done.stdout.strip() == "READ_ONLY True []", done.stderr


def test_sec_38_database_that_is_replaced_while_it_is_used_ends_all_answers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runyard.db"
    causes: list[str] = []

    async def go() -> None:
        store = Store.open(path, on_fatal=causes.append)
        await store.write(lambda conn: workspaces.ensure(conn, "lab", NOW_US))
        fresh_database(tmp_path / "planted.db").close()
        os.replace(tmp_path / "planted.db", path)
        with pytest.raises(Draining):
            await store.write(lambda conn: workspaces.ensure(conn, "lost", NOW_US))
        await asyncio.to_thread(store.close)

    asyncio.run(go())

    assert len(causes) == 1


def test_sec_38_files_beside_the_database_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store.open(tmp_path / "runyard.db")
        asyncio.run(store.write(lambda conn: workspaces.ensure(conn, "lab", NOW_US)))
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(modes, 0o600)
    assert "runyard.db-wal" in modes
