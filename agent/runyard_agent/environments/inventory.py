"""Tells of the uses of built environments: soon, and not for each run by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from runyard_agent import journal
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.records import Found

PAUSE_S = 2.0
"""Between a use and when it is told: a burst of runs is one look at the folder, after it began."""


async def tell_uses(
    cache: EnvironmentCache, told: Callable[[Sequence[Found]], None], pause_s: float = PAUSE_S
) -> None:
    """Looks through the cache after uses, and tells what is there. Never returns.

    No timer runs while nothing is used.
    """
    while True:
        await cache.was_used.wait()
        await asyncio.sleep(pause_s)
        cache.was_used.clear()
        try:
            told(await asyncio.to_thread(cache.found))
        except OSError as error:
            journal.failure("environments_not_told", error, folder=str(cache.root))
