from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.records import fresh_database


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The writer's connection to an empty database with the workspace `default`."""
    conn = fresh_database(tmp_path / "runyard.db")
    yield conn
    assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    conn.close()
