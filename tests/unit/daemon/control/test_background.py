from __future__ import annotations

import asyncio

import pytest

from runyard_daemon.control.background import Background
from runyard_daemon.control.changes import Changes


def test_work_goes_on_when_its_caller_is_cancelled() -> None:
    async def main() -> None:
        done = asyncio.Event()
        go = asyncio.Event()

        async def work() -> None:
            await go.wait()
            done.set()

        async with Background() as background:
            caller = asyncio.ensure_future(background.whole(work(), "work"))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            go.set()
        assert done.is_set()

    asyncio.run(main())


def test_an_error_reaches_the_caller_and_ends_nothing_else() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("no")

        async def succeed() -> int:
            return 7

        async with Background() as background:
            with pytest.raises(ValueError, match="no"):
                await background.whole(fail(), "fail")
            assert await background.whole(succeed(), "succeed") == 7

    asyncio.run(main())


def test_a_change_wakes_those_who_wait_for_that_run_or_any() -> None:
    async def main() -> None:
        changes = Changes()
        with changes.of_run("a") as a, changes.of_run("b") as b, changes.of_any() as any_run:
            changes.notify("a")
            assert (a.is_set(), b.is_set(), any_run.is_set()) == (True, False, True)
            assert changes.waiters == 3
        changes.notify("a")
        assert changes.waiters == 0

    asyncio.run(main())
