"""Runs and their slots: what was asked of a run is not lost while its slot is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from runyard_agent.executors.process import ProcessExecutor
from runyard_agent.executors.protocol import ExitRecord
from runyard_agent.slots import Event, Hello, SlotLost

LIMIT_S = 30.0


class FakeSlot:
    """A slot that notes what it is told."""

    def __init__(self, number: int, told: asyncio.Queue[tuple[Any, ...]]) -> None:
        self.hello = Hello(number, 1, None, "idle", ())
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._told = told

    async def spawn(self, bundle: str) -> None:
        await self._told.put(("spawn", bundle))

    async def stop(self, bundle: str, by: str, grace_s: float) -> None:
        await self._told.put(("stop", bundle, by, grace_s))

    async def close(self) -> None:
        """Nothing to close."""

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self.events.get()
            yield event
            if isinstance(event, SlotLost):
                return


class FakeSupervisor:
    """Gives a new slot each time it is asked, once that is allowed."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self.may_give = asyncio.Event()
        self.slots: list[FakeSlot] = []

    async def slot(self, number: int) -> FakeSlot:
        await self.asked.put(number)
        await self.may_give.wait()
        self.slots.append(FakeSlot(number, self.told))
        return self.slots[-1]


class Silent:
    """Follows a run that says nothing."""

    def started(self, at_unix_ns: int) -> None:
        """See Follower."""

    def output(self) -> None:
        """See Follower."""

    def stuck(self, pids: tuple[int, ...]) -> None:
        """See Follower."""

    def disk_full(self) -> None:
        """See Follower."""

    def held_up(self, why: str) -> None:
        pass

    def exited(self, record: ExitRecord) -> None:
        """See Follower."""

    def refused(self, why: str) -> None:
        """See Follower."""


def told_after(bundle: str, *, is_slot_dead: bool) -> list[tuple[Any, ...]]:
    """What slots are told of a run that is stopped when its first slot is, or is about to be, lost
    before it began."""

    async def go() -> list[tuple[Any, ...]]:
        supervisor = FakeSupervisor()
        told = []
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            executor = ProcessExecutor(supervisor, 1, group)  # type: ignore[arg-type]
            supervisor.may_give.set()
            await executor.start(bundle, Silent())
            await supervisor.asked.get()

            supervisor.may_give.clear()
            if not is_slot_dead:
                executor.stop(bundle, "cancel", 2.0)
            supervisor.slots[0].events.put_nowait(SlotLost(0, 1))
            await supervisor.asked.get()  # its slot is lost, and it waits for another
            if is_slot_dead:
                executor.stop(bundle, "cancel", 2.0)
            supervisor.may_give.set()

            told = [await supervisor.told.get() for _ in range(3 if is_slot_dead else 4)]
            for listening in asyncio.all_tasks() - {asyncio.current_task()}:
                listening.cancel()
        return told

    return asyncio.run(go())


def test_stop_that_comes_while_a_run_has_no_slot_reaches_it_in_the_next(tmp_path: Path) -> None:
    bundle = str(tmp_path)
    spawn, stop = ("spawn", bundle), ("stop", bundle, "cancel", 2.0)

    assert told_after(bundle, is_slot_dead=True) == [spawn, spawn, stop]


def test_stop_that_a_dying_slot_may_not_have_heard_is_said_to_the_next(tmp_path: Path) -> None:
    bundle = str(tmp_path)
    spawn, stop = ("spawn", bundle), ("stop", bundle, "cancel", 2.0)

    assert told_after(bundle, is_slot_dead=False) == [spawn, stop, spawn, stop]
