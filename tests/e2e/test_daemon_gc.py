"""`runyard daemon gc`: what is replaced goes, what a run needs stays and runs again."""

from __future__ import annotations

import json

import pytest

from support.house import House

pytestmark = pytest.mark.slow


def test_gc_says_what_it_would_remove_then_removes_it_and_harms_no_run(house: House) -> None:
    folder = house.project({"train.py": "import data.d0\nprint('ran')"})
    (folder / "data").mkdir()
    for number in range(20):
        (folder / "data" / f"d{number}.py").write_text(f"x = {number}")
    assert house.runyard("run", "train.py", cwd=folder).returncode == 0
    pack = next((house.home / "blobs" / "packs").glob("*.pack"))
    orphan = house.home / "blobs" / "ab" / ("0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"left by nobody")

    dry = house.runyard("daemon", "gc", "--dry-run", "--grace", "0", "--json")
    there_after_dry = orphan.exists()
    young = house.json("daemon", "gc")
    done = house.runyard("daemon", "gc", "--grace", "0")
    again = house.json("daemon", "gc", "--grace", "0")

    assert (json.loads(dry.stdout)["removed_count"], there_after_dry) == (1, True)
    assert json.loads(dry.stdout)["is_dry_run"]
    assert young["removed_count"] == 0
    assert b"removed 1 blob (14 bytes)" in done.stderr
    assert again["removed_count"] == 0
    assert not orphan.exists()
    assert pack.exists()
    assert house.runyard("run", "train.py", cwd=folder).returncode == 0
