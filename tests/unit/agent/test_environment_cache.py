from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from runyard_agent.environments.cache import EnvironmentCache, Record, folder_bytes

HASH = "0123456789abcdef" * 4
RECORD = Record(HASH, "linux-x86_64-cp311", 1_764_000_000_000_000_000, 42, "3.11.7", 2)


@pytest.fixture
def built(tmp_path: Path) -> EnvironmentCache:
    """A cache with one environment in it."""
    cache = EnvironmentCache(tmp_path)
    python = cache.python(HASH)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    cache.seal(RECORD)
    return cache


def test_sealed_environment_is_ready_after_a_restart_too(
    built: EnvironmentCache, tmp_path: Path
) -> None:
    assert built.ready(HASH) == RECORD
    assert EnvironmentCache(tmp_path).ready(HASH) == RECORD
    assert built.folder(HASH) == tmp_path / HASH[:16]


def test_nothing_is_ready_without_the_record(built: EnvironmentCache, tmp_path: Path) -> None:
    built.ready(HASH)  # remembered
    (built.folder(HASH) / "ready.json").unlink()

    assert built.ready(HASH) is None
    assert EnvironmentCache(tmp_path / "none").ready(HASH) is None


def test_environment_whose_python_was_removed_is_not_ready(built: EnvironmentCache) -> None:
    built.ready(HASH)
    built.python(HASH).unlink()
    built.python(HASH).symlink_to("/nonexistent/python")

    assert built.ready(HASH) is None


def test_another_lock_with_the_same_first_digits_is_not_taken(built: EnvironmentCache) -> None:
    assert built.ready(HASH[:16] + "f" * 48) is None


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"lock_hash": "f" * 64}, {"unknown": 1}, None], ids=str
)
def test_record_that_cannot_be_read_counts_for_nothing(
    change: dict[str, object] | None, built: EnvironmentCache
) -> None:
    path = built.folder(HASH) / "ready.json"
    fields = json.loads(path.read_bytes())
    path.write_text("{" if change is None else json.dumps({**fields, **change}))

    assert built.ready(HASH) is None


def test_replaced_record_is_read_again(built: EnvironmentCache) -> None:
    built.ready(HASH)
    newer = dataclasses.replace(RECORD, size_bytes=43)

    built.seal(newer)
    os.utime(built.folder(HASH) / "ready.json", ns=(1, 1))

    assert built.ready(HASH) == newer


def test_touch_tells_the_time_of_the_last_use(built: EnvironmentCache) -> None:
    built.touch(HASH)
    last_used = built.folder(HASH) / "last-used"
    os.utime(last_used, ns=(1, 1))

    built.touch(HASH)

    assert last_used.stat().st_mtime_ns > 1
    assert built.ready(HASH) == RECORD


def test_discard_leaves_nothing(built: EnvironmentCache, tmp_path: Path) -> None:
    asyncio.run(built.discard(HASH))
    asyncio.run(built.discard(HASH))

    assert built.ready(HASH) is None
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_what_a_killed_agent_left(built: EnvironmentCache, tmp_path: Path) -> None:
    (tmp_path / ".trash-0123-ff/lib").mkdir(parents=True)

    asyncio.run(built.sweep())

    assert [path.name for path in tmp_path.iterdir()] == [HASH[:16]]


def test_reservation_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    first, second = EnvironmentCache(tmp_path), EnvironmentCache(tmp_path)
    order: list[str] = []

    async def take_turns() -> None:
        waits = asyncio.Event()

        async def other() -> None:
            async with second.reserved(HASH, waits.set):
                order.append("second")

        async with first.reserved(HASH, lambda: order.append("not expected")) as fd:
            task = asyncio.create_task(other())
            await waits.wait()
            order.append("first")
            inherited = os.dup(fd)  # as by a daemon that a package's build started
        await task
        os.close(inherited)

    asyncio.run(asyncio.wait_for(take_turns(), 30))

    assert order == ["first", "second"]


def test_folder_bytes_sums_files_and_counts_no_target_of_links(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/one").write_bytes(b"x" * 1000)
    (tmp_path / "two").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to("/usr/bin/python3")

    assert folder_bytes(tmp_path) == 1010 + len("/usr/bin/python3")
