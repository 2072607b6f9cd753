"""Checks a database that came out of a backup before any of it is used."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from runyard_contract.errors import BackupInvalid
from runyard_daemon.store import meta, migrations
from runyard_daemon.store.connection import connect, open_reader


def check_restored(path: Path) -> None:
    """Refuses what is no whole database of ours: damage, or any table, trigger or view too many.

    Raises BackupInvalid, DatabaseNewer, HomeUnusable.
    """
    with contextlib.closing(connect(path)) as conn:
        number = migrations.check_known(conn, path)
        try:
            if number < 1 or _schema(conn) != _expected_schema(number):
                raise _fault("its database has other tables than a backup's")
            (check,) = conn.execute("PRAGMA quick_check(1)").fetchone()
            if check != "ok":
                raise _fault(f"its database is damaged: {check}")
            if conn.execute("PRAGMA foreign_key_check").fetchone() is not None:
                raise _fault("its database has records of things that it lacks")
        except sqlite3.Error as error:
            raise _fault(f"its database is damaged: {error}") from error


def known_incarnation(path: Path) -> int:
    """The incarnation of the database at a path; 0 where there is none that can be read."""
    if not path.exists():
        return 0
    try:
        with contextlib.closing(open_reader(path)) as conn:
            return meta.get(conn).incarnation
    except sqlite3.Error:
        return 0


def _schema(conn: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    return conn.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


def _expected_schema(number: int) -> list[tuple[str, str, str | None]]:
    """What the migrations up to a schema's number make."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        for statements in migrations.MIGRATIONS[:number]:
            for statement in statements:
                conn.execute(statement)
        return _schema(conn)


def _fault(what: str) -> BackupInvalid:
    return BackupInvalid(
        f"the file is no whole backup: {what}",
        hint="use another backup; nothing was changed",
        what=what,
    )
