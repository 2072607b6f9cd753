from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.inventory import tell_uses
from runyard_agent.environments.records import Found, Record

RECORD = Record("ab" * 32, "linux-64", 1_000, 42, "3.11.7", 2)


def test_uses_are_told_and_again_after_more(tmp_path: Path) -> None:
    cache = EnvironmentCache(tmp_path)
    cache.folder(RECORD.lock_hash).mkdir()
    cache.finish(RECORD)
    told: asyncio.Queue[Sequence[Found]] = asyncio.Queue()

    async def use_it() -> list[int]:
        telling = asyncio.create_task(tell_uses(cache, told.put_nowait, pause_s=0.0))
        hits = []
        for uses in (2, 1):
            for _ in range(uses):
                cache.used(RECORD.lock_hash)
            (found,) = await told.get()
            hits.append(found.hits)
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        return hits

    assert asyncio.run(asyncio.wait_for(use_it(), 30)) == [1, 2]
    assert told.empty()


def test_folder_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    root = tmp_path / "environments"
    cache = EnvironmentCache(root)
    told: asyncio.Queue[Sequence[Found]] = asyncio.Queue()

    async def use_it() -> Sequence[Found]:
        telling = asyncio.create_task(tell_uses(cache, told.put_nowait, pause_s=0.0))
        cache.used(RECORD.lock_hash)
        while cache.was_used.is_set():  # noqa: ASYNC110 - the loop under test clears it
            await asyncio.sleep(0)
        root.mkdir()
        cache.used(RECORD.lock_hash)
        found = await told.get()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        return found

    assert asyncio.run(asyncio.wait_for(use_it(), 30)) == []
