from __future__ import annotations

import asyncio

import pytest

from runyard_agent.environments.shared_work import Audience, Listener, SharedWork


class Log:
    def __init__(self) -> None:
        self.data = b""
        self.doing: list[str] = []

    def write(self, data: bytes) -> None:
        self.data += data


def _listener() -> tuple[Log, Listener]:
    log = Log()
    return log, Listener(log, log.doing.append)


def test_all_who_wait_get_one_result_and_the_whole_log() -> None:
    async def scenario() -> tuple[list[int], Log, Log, int]:
        shared: SharedWork[int] = SharedWork("work", "joined")
        began, may_end = asyncio.Event(), asyncio.Event()
        calls = 0

        async def work(audience: Audience) -> int:
            nonlocal calls
            calls += 1
            audience.say("one")
            audience.progress("working")
            began.set()
            await may_end.wait()
            audience.say("two")
            return 7

        first_log, first = _listener()
        second_log, second = _listener()
        one = asyncio.create_task(shared.do("key", work, first))
        await began.wait()
        two = asyncio.create_task(shared.do("key", work, second))
        await asyncio.sleep(0)
        may_end.set()
        return list(await asyncio.gather(one, two)), first_log, second_log, calls

    results, first_log, second_log, calls = asyncio.run(scenario())

    assert (results, calls) == ([7, 7], 1)
    assert first_log.data == b"one\ntwo\n"
    assert second_log.data == b"joined\none\ntwo\n"
    assert first_log.doing == second_log.doing == ["working"]


def test_all_who_wait_get_the_error_and_the_next_starts_anew() -> None:
    async def scenario() -> list[object]:
        shared: SharedWork[int] = SharedWork("work", "joined")
        outcomes: list[Exception | int] = [ValueError("first"), 2]

        async def work(audience: Audience) -> int:
            outcome = outcomes.pop(0)
            await asyncio.sleep(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        both = await asyncio.gather(
            *(shared.do("key", work, _listener()[1]) for _ in range(2)), return_exceptions=True
        )
        return [*both, await shared.do("key", work, _listener()[1])]

    first, second, third = asyncio.run(scenario())

    assert isinstance(first, ValueError)
    assert first is second
    assert third == 2


def test_work_ends_with_the_last_who_waits_and_before_that_one_goes_on() -> None:
    async def scenario() -> list[str]:
        shared: SharedWork[int] = SharedWork("work", "joined")
        events: list[str] = []
        began = asyncio.Event()

        async def work(audience: Audience) -> int:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # ending takes a while
                events.append("ended")
            return 1

        async def wait(name: str) -> None:
            try:
                await shared.do("key", work, _listener()[1])
            finally:
                events.append(name)

        one, two = asyncio.create_task(wait("one")), asyncio.create_task(wait("two"))
        await began.wait()
        for task in (one, two):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return events

    assert asyncio.run(scenario()) == ["one", "ended", "two"]


def test_other_keys_do_not_wait() -> None:
    async def scenario() -> int:
        shared: SharedWork[int] = SharedWork("work", "joined")

        async def forever(audience: Audience) -> int:
            await asyncio.Event().wait()
            return 0

        async def quick(audience: Audience) -> int:
            return 1

        slow = asyncio.create_task(shared.do("a", forever, _listener()[1]))
        result = await shared.do("b", quick, _listener()[1])
        slow.cancel()
        await asyncio.wait([slow])
        return result

    assert asyncio.run(scenario()) == 1
