"""Brings a database to the schema of this version: numbered steps, each one transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runyard_contract.errors import DatabaseNewer, HomeUnusable
from runyard_contract.paths import sync_dir
from runyard_daemon.store.connection import INCREMENTAL
from runyard_daemon.store.faults import is_damage
from runyard_daemon.store.schema import (
    APPLICATION_ID,
    FIFTH_SCHEMA,
    FIRST_SCHEMA,
    FOURTH_SCHEMA,
    SECOND_SCHEMA,
    THIRD_SCHEMA,
)

Migration = Sequence[str]
"""The statements of one step."""

MIGRATIONS: Final[tuple[Migration, ...]] = (
    FIRST_SCHEMA,
    SECOND_SCHEMA,
    THIRD_SCHEMA,
    FOURTH_SCHEMA,
    FIFTH_SCHEMA,
)
"""Step n brings a database of schema n to schema n + 1. Released steps never change."""

COPIES_KEPT: Final = 2
"""Copies made before migrations that stay beside the database, the newest schemas."""


def check_known(conn: sqlite3.Connection, path: Path, latest: int = len(MIGRATIONS)) -> int:
    """Gives the schema's number of a database, 0 for an empty one.

    Raises DatabaseNewer where a newer version wrote it, HomeUnusable where it is no database, or
    another program's.
    """
    try:
        (number,) = conn.execute("PRAGMA user_version").fetchone()
        (owner,) = conn.execute("PRAGMA application_id").fetchone()
        (tables,) = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise damaged(path, str(error)) from error
    if tables and owner != APPLICATION_ID:
        raise HomeUnusable(
            f"{path} is a database of another program",
            hint="set RUNYARD_HOME to a folder of its own",
            path=str(path),
        )
    if number > latest:
        raise _newer(conn, path, number, latest)
    return int(number)


def migrate(
    conn: sqlite3.Connection, path: Path, steps: Sequence[Migration] = MIGRATIONS
) -> Path | None:
    """Applies the steps that a database lacks; gives the copy made of an existing one before.

    The copy lies beside it, is named by its schema and is durable before the first step; older
    copies go. A step that fails, or a kill at any moment, leaves the schema before that step.
    """
    number = check_known(conn, path, len(steps))
    if number == len(steps):
        return None
    copy = None
    if number:
        copy = _copy(conn, path, number)
        _remove_old_copies(path)
        _make_shrinkable(conn)
    for statements in steps[number:]:
        number += 1
        conn.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                conn.execute(statement)
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {number}")
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
    return copy


def damaged(path: Path, what: str) -> HomeUnusable:
    """The error for a database that SQLite can't read."""
    return HomeUnusable(
        f"the database {path} is damaged: {what}",
        hint="put the newest backup in its place (copies made before upgrades lie beside it), "
        "or move it away to begin with an empty history",
        path=str(path),
    )


def _newer(conn: sqlite3.Connection, path: Path, number: int, latest: int) -> DatabaseNewer:
    """The error for a newer schema; names the version that wrote it where that can be read."""
    version = ""
    with contextlib.suppress(sqlite3.Error):
        (version,) = conn.execute("SELECT written_by FROM meta").fetchone()
    writer = f"runyard {version}" if version else "a newer runyard"
    wanted = f"runyard=={version}" if version else "a newer runyard"
    return DatabaseNewer(
        f"{path} was written by {writer} (schema {number}, this version knows {latest})",
        hint=f"install {wanted}, or set RUNYARD_HOME to another folder",
        path=str(path),
        schema=str(number),
        known_schema=str(latest),
        version=version,
    )


def _make_shrinkable(conn: sqlite3.Connection) -> None:
    """Lets a database give space back bit by bit, as new ones can from their start."""
    (mode,) = conn.execute("PRAGMA auto_vacuum").fetchone()
    if mode != INCREMENTAL:
        conn.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        conn.execute("VACUUM")


def _remove_old_copies(path: Path) -> None:
    """Removes all but the newest copies that migrations made."""
    numbered = [
        (int(suffix), copy)
        for copy in path.parent.glob(f"{path.name}.schema-*")
        if (suffix := copy.name.rpartition("-")[2]).isdecimal()
    ]
    for _, copy in sorted(numbered)[:-COPIES_KEPT]:
        copy.unlink()


def _copy(conn: sqlite3.Connection, path: Path, number: int) -> Path:
    """Copies the database as it is now to a file of its own, durably."""
    copy = path.with_name(f"{path.name}.schema-{number}")
    temporary = path.with_name(f".{copy.name}.tmp")
    temporary.unlink(missing_ok=True)
    conn.execute("VACUUM INTO ?", (str(temporary),))
    fd = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(copy)
    sync_dir(path.parent)
    return copy
