"""The data directory that the first landing's code left: three runs with logs, files and tags."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Final

_DATA: Final = Path(__file__).parents[1] / "data" / "first_landing"
COMPLETED: Final = "iris_1795469705_dd7d41e8"
FAILED: Final = "iris_1795469706_e516e7c2"
OTHER: Final = "Wine_1795469706_4e974899"


def lay_out(home: Path) -> Path:
    """Makes that data directory and gives the path of its database, of schema 1."""
    home.mkdir(mode=0o700, exist_ok=True)
    for folder in ("blobs", "runs"):
        shutil.copytree(_DATA / folder, home / folder)
    database = home / "runyard.db"
    conn = sqlite3.connect(database)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.executescript((_DATA / "runyard.sql").read_text())
    conn.execute(f"PRAGMA application_id = {0x52594452}")
    conn.execute("PRAGMA user_version = 1")
    conn.close()
    return database
