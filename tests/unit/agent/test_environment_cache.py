from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.records import Found, Pruned, Record

HASH = "0123456789abcdef" * 4
RECORD = Record(HASH, "linux-x86_64-cp311", 1_764_000_000_000_000_000, 42, "3.11.7", 2)


@pytest.fixture
def built(tmp_path: Path) -> EnvironmentCache:
    """A cache with one environment in it."""
    cache = EnvironmentCache(tmp_path)
    python = cache.python(HASH)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    cache.finish(RECORD)
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

    built.finish(newer)
    os.utime(built.folder(HASH) / "ready.json", ns=(1, 1))

    assert built.ready(HASH) == newer


def test_last_use_and_hits_are_told_and_kept(built: EnvironmentCache, tmp_path: Path) -> None:
    built.used(HASH)
    os.utime(built.folder(HASH) / "last-used", ns=(1, 1))
    assert built.found() == [Found(RECORD, 1, 0)]

    built.used(HASH)
    built.used(HASH)

    (found,) = EnvironmentCache(tmp_path).found()
    assert found.hits == 2
    assert found.last_used_unix_ns > 1
    assert built.ready(HASH) == RECORD


def test_environment_that_nobody_has_used_counts_from_its_build(built: EnvironmentCache) -> None:
    assert built.found() == [Found(RECORD, RECORD.created_at_unix_ns, 0)]


def test_run_has_used_its_environment_until_it_lets_go(built: EnvironmentCache) -> None:
    built.used(HASH)
    built.uses.has("run 1", HASH)
    os.utime(built.folder(HASH) / "last-used", ns=(1, 1))

    built.release("run 1")
    (found,) = built.found()

    assert built.uses.lock_hashes() == frozenset()
    assert found.last_used_unix_ns > 1
    assert found.hits == 0


def test_use_of_what_was_removed_leaves_nothing(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)
    cache.uses.has("run 1", HASH)

    cache.used(HASH)
    cache.release("run 1")

    assert list(tmp_path.iterdir()) == []


def test_discard_leaves_nothing(built: EnvironmentCache, tmp_path: Path) -> None:
    asyncio.run(built.discard(HASH))
    asyncio.run(built.discard(HASH))

    assert built.ready(HASH) is None
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_what_a_killed_agent_left(built: EnvironmentCache, tmp_path: Path) -> None:
    (tmp_path / ".trash-0123-ff/lib").mkdir(parents=True)

    asyncio.run(built.sweep())

    assert [path.name for path in tmp_path.iterdir()] == [HASH[:16]]


def store(cache: EnvironmentCache, lock_hash: str, *, last_used_s: int, size: int = 10) -> str:
    """Builds an environment that was last used then; gives its lock's hash."""
    python = cache.python(lock_hash)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    cache.finish(dataclasses.replace(RECORD, lock_hash=lock_hash, size_bytes=size))
    cache.used(lock_hash)
    os.utime(cache.folder(lock_hash) / "last-used", (last_used_s, last_used_s))
    return lock_hash


def make_room(cache: EnvironmentCache) -> None:
    """One round; what it throws away is deleted before this returns."""

    async def round_and_sweep() -> None:
        await cache.make_room()
        await cache.sweep()

    asyncio.run(round_and_sweep())


def test_least_recently_used_makes_room(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path, 20)
    middle = store(cache, "a" * 64, last_used_s=2)
    old = store(cache, "b" * 64, last_used_s=1)
    new = store(cache, "c" * 64, last_used_s=3)

    make_room(cache)

    assert cache.ready(old) is None
    assert cache.ready(middle)
    assert cache.ready(new)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"a" * 16, "c" * 16}


def test_what_a_run_has_or_waits_for_stays(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path, 1)
    has, waits, left = (
        store(cache, digit * 64, last_used_s=at) for digit, at in (("a", 1), ("b", 2), ("c", 3))
    )
    cache.uses.has("run 1", has)
    cache.uses.wait("run 2")
    cache.uses.built(waits)
    cache.uses.has("run 3", left)
    cache.uses.release("run 3")

    make_room(cache)

    assert cache.ready(has)
    assert cache.ready(waits)
    assert cache.ready(left) is None


def test_what_another_process_builds_or_reads_stays(tmp_path: Path) -> None:
    cache, other = EnvironmentCache(tmp_path, 1), EnvironmentCache(tmp_path, 1)
    stored = store(cache, "a" * 64, last_used_s=1)
    building = cache.folder("b" * 64)
    building.mkdir()

    async def beside_it() -> None:
        async with other.reserved(stored, lambda: None), other.reserved("b" * 64, lambda: None):
            await cache.make_room()

    asyncio.run(beside_it())

    assert cache.ready(stored)
    assert building.is_dir()


def test_others_make_room_for_what_another_process_has(tmp_path: Path) -> None:
    cache, other = EnvironmentCache(tmp_path, 10), EnvironmentCache(tmp_path, 10)
    old = store(cache, "a" * 64, last_used_s=1)
    new = store(cache, "b" * 64, last_used_s=2)

    async def beside_it() -> None:
        async with other.reserved(old, lambda: None):
            await cache.make_room()

    asyncio.run(beside_it())

    assert cache.ready(old)
    assert cache.ready(new) is None


def test_what_is_left_is_told_after_each_round(tmp_path: Path) -> None:
    told: list[list[str]] = []
    cache = EnvironmentCache(
        tmp_path, 10, lambda found: told.append([one.record.lock_hash for one in found])
    )
    store(cache, "a" * 64, last_used_s=1)
    new = store(cache, "b" * 64, last_used_s=2)

    make_room(cache)

    assert told == [[new]]


def test_record_that_cannot_be_read_goes_unless_a_run_has_it(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path, 1 << 30)
    for digit in ("a", "b"):
        store(cache, digit * 64, last_used_s=1)
        (tmp_path / (digit * 16) / "ready.json").write_text("{")
    cache.uses.has("run 1", "a" * 64)

    make_room(cache)

    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"a" * 16}


def test_leftovers_of_killed_builds_and_removals_go(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path, 1 << 30)
    stored = store(cache, "a" * 64, last_used_s=1)
    (tmp_path / ("b" * 16) / "lib").mkdir(parents=True)
    (tmp_path / ".trash-0123-ff" / "lib").mkdir(parents=True)
    (tmp_path / "of-a-plug-in").mkdir()

    make_room(cache)

    assert cache.ready(stored)
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"a" * 16, "of-a-plug-in"}


def test_folder_that_cannot_be_read_fails_no_build(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "runyard_agent"):
        make_room(EnvironmentCache(tmp_path / "gone", 1))

    assert "environments_not_bounded" in caplog.text


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


def test_sweep_removes_what_a_killed_build_needed_and_not_what_one_needs(
    built: EnvironmentCache,
) -> None:
    async def sweep() -> bool:
        async with built.reserved(HASH, lambda: None):
            await built.sweep()
            return built.scratch(HASH).exists()

    built.scratch(HASH).mkdir()
    assert asyncio.run(sweep())
    asyncio.run(built.sweep())

    assert not built.scratch(HASH).exists()
    assert built.ready(HASH) == RECORD


def test_condemned_environment_is_not_ready_until_it_is_built_again(
    built: EnvironmentCache,
) -> None:
    built.condemn(HASH)
    assert built.ready(HASH) is None
    assert built.rebuilt == {HASH}

    built.finish(RECORD)

    assert built.ready(HASH) == RECORD
    assert built.rebuilt == set()


def test_prune_removes_what_no_run_has_and_frees_its_space(tmp_path: Path) -> None:
    told: list[list[str]] = []
    cache = EnvironmentCache(
        tmp_path, None, lambda found: told.append([one.record.lock_hash for one in found])
    )
    old, has, waits = (
        store(cache, digit * 64, last_used_s=at, size=at * 10)
        for digit, at in (("a", 1), ("b", 2), ("c", 3))
    )
    cache.uses.has("run 1", has)
    cache.uses.wait("run 2")
    cache.uses.built(waits)

    dry = asyncio.run(cache.prune(None, None, is_dry_run=True))
    assert all(map(cache.ready, (old, has, waits)))
    pruned = asyncio.run(cache.prune(None, None, is_dry_run=False))

    assert dry == pruned
    assert [one.record.lock_hash for one in pruned.removed] == [old]
    assert {one.record.lock_hash for one in pruned.left} == {has, waits}
    assert pruned.in_use == 2
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"b" * 16, "c" * 16}
    assert sorted(told[-1]) == [has, waits]


def test_prune_goes_by_last_use_and_by_size(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)
    old, middle, new = (
        store(cache, digit * 64, last_used_s=at)
        for digit, at in (("a", 1_000), ("b", 2_000), ("c", int(time.time())))
    )

    by_size = asyncio.run(cache.prune(None, 20, is_dry_run=False))
    by_age = asyncio.run(cache.prune(10**9 * 3600, None, is_dry_run=False))

    assert [one.record.lock_hash for one in by_size.removed] == [old]
    assert [one.record.lock_hash for one in by_age.removed] == [middle]
    assert cache.ready(new)


def test_prune_leaves_what_another_process_has(tmp_path: Path) -> None:
    cache, other = EnvironmentCache(tmp_path), EnvironmentCache(tmp_path)
    stored = store(cache, "a" * 64, last_used_s=1)

    async def beside_it() -> Pruned:
        async with other.reserved(stored, lambda: None):
            return await cache.prune(None, None, is_dry_run=False)

    assert asyncio.run(beside_it()).removed == ()
    assert cache.ready(stored)
