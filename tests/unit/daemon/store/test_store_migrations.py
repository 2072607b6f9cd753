from __future__ import annotations

import contextlib
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runyard_contract.states import RunState
from runyard_daemon.store import attempts, files, migrations, runs
from runyard_daemon.store.database import Store
from support import first_landing
from support.records import NOW_US, fresh_database

LATEST = len(migrations.MIGRATIONS)
STEP = (
    "ALTER TABLE workspaces ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",
    "CREATE TABLE notes (text TEXT NOT NULL) STRICT",
)
MORE = (*migrations.MIGRATIONS, STEP)
# Migrates a database in children, each killed one statement later than the last, until one is not.
# After each kill it prints the schema's number and what the integrity check says.
KILLER = """
import os, signal, sqlite3, sys
from pathlib import Path
from runyard_daemon.store import connection, migrations
path = Path(sys.argv[1])
steps = (*migrations.MIGRATIONS, *eval(sys.argv[2]))
def migrate(kill_at):
    conn = connection.connect(path)
    seen = 0
    def count(statement):
        nonlocal seen
        seen += 1
        if seen > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    conn.set_trace_callback(count)
    connection.make_writer(conn)
    migrations.migrate(conn, path, steps)
    os._exit(0)
original = path.read_bytes()
kill_at = 0
while True:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(original)
    pid = os.fork()
    if pid == 0:
        migrate(kill_at)
    _, status = os.waitpid(pid, 0)
    conn = sqlite3.connect(path)
    (number,) = conn.execute("PRAGMA user_version").fetchone()
    (check,) = conn.execute("PRAGMA integrity_check").fetchone()
    tables = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    conn.close()
    print(kill_at, number, tables, check, flush=True)
    if os.waitstatus_to_exitcode(status) == 0:
        break
    kill_at += 1
"""


def kills(path: Path, extra: object = ()) -> list[tuple[int, int, str]]:
    """Schema, number of its tables and indexes, and check after a kill at each statement."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), repr(extra)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    return [(int(number), int(tables), check) for _, number, tables, check in lines]


def row_counts(conn: sqlite3.Connection) -> dict[str, int]:
    """Rows of each table."""
    tables = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {
        name: conn.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
        for (name,) in tables
    }


def test_migration_copies_an_existing_database_before_its_first_step(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    conn = fresh_database(path)

    copy = migrations.migrate(conn, path, MORE)

    assert copy is not None
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    old = sqlite3.connect(copy)
    assert old.execute("SELECT * FROM workspaces").fetchall() == [("default", NOW_US)]
    assert conn.execute("SELECT * FROM workspaces").fetchall() == [("default", NOW_US, "none")]
    old.close()
    conn.close()


def test_migration_that_fails_leaves_the_schema_before_it(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    conn = fresh_database(path)

    with pytest.raises(sqlite3.OperationalError):
        migrations.migrate(conn, path, (*migrations.MIGRATIONS, (*STEP, "NONSENSE")))

    assert conn.execute("SELECT * FROM workspaces").fetchall() == [("default", NOW_US)]
    assert migrations.check_known(conn, path) == LATEST
    conn.close()


def test_copies_of_the_newest_schemas_are_kept_and_older_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    conn = fresh_database(path)
    steps = list(migrations.MIGRATIONS)

    for number in range(4):
        steps.append((f"CREATE TABLE more_{number} (n INTEGER) STRICT",))
        migrations.migrate(conn, path, steps)

    conn.close()
    kept = {copy.name for copy in tmp_path.glob("runyard.db.schema-*")}
    assert kept == {f"runyard.db.schema-{LATEST + 2}", f"runyard.db.schema-{LATEST + 3}"}


def test_a_kill_at_any_statement_of_a_first_start_leaves_a_schema_whole(tmp_path: Path) -> None:
    path = tmp_path / "runyard.db"
    path.touch()

    found = kills(path)

    assert {check for _, _, check in found} == {"ok"}
    assert {number for number, _, _ in found} == set(range(LATEST + 1))
    assert len({(number, tables) for number, tables, _ in found}) == LATEST + 1


def test_a_kill_at_any_statement_of_a_migration_leaves_the_old_or_the_new_schema(
    tmp_path: Path,
) -> None:
    path = first_landing.lay_out(tmp_path / "home")

    found = kills(path, (STEP,))

    assert {check for _, _, check in found} == {"ok"}
    assert {number for number, _, _ in found} == set(range(1, LATEST + 2))
    assert len({(number, tables) for number, tables, _ in found}) == LATEST + 1


def test_a_database_of_the_first_landing_is_opened_with_all_that_it_has(tmp_path: Path) -> None:
    path = first_landing.lay_out(tmp_path / "home")
    before = sqlite3.connect(path)
    counts = row_counts(before)
    before.close()

    store = Store.open(path)
    completed = store.peek(lambda conn: runs.get(conn, first_landing.COMPLETED))
    failed = store.peek(lambda conn: runs.get(conn, first_landing.FAILED))
    found = store.peek(lambda conn: files.paths(conn, first_landing.COMPLETED))
    attempt = store.peek(lambda conn: attempts.current(conn, first_landing.COMPLETED))
    after = store.peek(row_counts)
    store.close()

    assert counts.items() <= after.items()
    assert completed is not None
    assert completed.state is RunState.COMPLETED
    assert dict(completed.tags) == {"model": "small", "stage": "first"}
    assert failed is not None
    assert failed.end is not None
    assert failed.end.exit_code == 3
    assert found == ["outputs/model.txt"]
    assert attempt is not None
    assert attempt.lengths["stdout.txt"] == 8


def test_a_migrated_database_can_give_space_back(tmp_path: Path) -> None:
    path = first_landing.lay_out(tmp_path / "home")

    Store.open(path).close()

    conn = sqlite3.connect(path)
    assert conn.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert sorted(tmp_path.glob("home/runyard.db.schema-*")) == [
        path.with_name("runyard.db.schema-1")
    ]
    conn.close()


def test_a_migrated_database_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    migrated = first_landing.lay_out(tmp_path / "home")
    Store.open(migrated).close()
    fresh = tmp_path / "runyard.db"
    Store.open(fresh).close()

    def schema(path: Path) -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(path)) as conn:
            return conn.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()

    assert schema(migrated) == schema(fresh)
