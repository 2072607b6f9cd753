"""Executes runs as processes of this machine, through the supervisor: one run a slot at a time."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections import deque
from collections.abc import Coroutine
from typing import Any, cast

from runyard_agent import journal
from runyard_agent.executors.protocol import ExecutorUnavailable, ExitRecord, Follower
from runyard_agent.slots import (
    DiskFull,
    Event,
    Exited,
    Output,
    Refused,
    Slot,
    SlotLost,
    Started,
    StopReason,
    Stuck,
    Supervisor,
    SupervisorUnavailable,
)

RECOVER_RETRY_S = 1.0
YOUNG_S = 0.25
"""A run that has taken longer than this is not short: nothing is put behind it."""
PLACES = 2
"""Runs that a slot may have: the one that it executes and the next."""


class _Nobody:
    """Follows what nobody follows (its attempt was dropped)."""

    def started(self, at_unix_ns: int) -> None:
        """See Follower."""

    def output(self) -> None:
        """See Follower."""

    def stuck(self, pids: tuple[int, ...]) -> None:
        """See Follower."""

    def disk_full(self) -> None:
        """See Follower."""

    def held_up(self, why: str) -> None:
        """See Follower."""

    def exited(self, record: ExitRecord) -> None:
        """See Follower."""

    def refused(self, why: str) -> None:
        """See Follower."""


_NOBODY: Follower = _Nobody()


class _Lane:
    """One slot: its connection and the bundles that were handed to it."""

    __slots__ = ("began_s", "followers", "number", "slot")

    def __init__(self, number: int, slot: Slot) -> None:
        self.number = number
        self.slot = slot
        self.followers: dict[str, Follower] = {}
        self.began_s = 0.0
        """When the run that it executes was handed over or started."""


class ProcessExecutor:
    """Runs at most `slots` bundles at one time. Its tasks live in `group`."""

    def __init__(self, supervisor: Supervisor, slots: int, group: asyncio.TaskGroup) -> None:
        self._supervisor = supervisor
        self._group = group
        self._free = list(range(slots))
        self._places = [0] * slots
        """How many bundles each slot has, or is to have."""
        self._turns: dict[str, asyncio.Future[int]] = {}
        """The slot of each bundle that was spoken for and not handed over, once it is its turn."""
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._of: dict[str, _Lane] = {}
        self._between_slots: set[str] = set()
        """Bundles whose slot has died before they began, until they are in another."""
        self._stops: dict[str, tuple[str, float]] = {}
        """How bundles are to be stopped: their slot may die before it does so."""
        self._connecting: dict[int, asyncio.Lock] = {}
        self._is_discovered = False

    async def warm_up(self, lanes: int) -> None:
        """Starts the supervisor, and this many of its slots, before the first run needs them."""
        try:
            for number in range(lanes):
                await self._lane(number)
        except SupervisorUnavailable as error:
            journal.warning("supervisor_unavailable", why=str(error))

    def reserve(self, bundle: str, *, may_follow: bool) -> bool:
        """See Executor."""
        if self._waiting:
            return False
        if self._free:
            number = heapq.heappop(self._free)
        elif may_follow and (behind := self._young_lane()) is not None:
            number = behind
        else:
            return False
        self._places[number] += 1
        self._turns[bundle] = asyncio.get_running_loop().create_future()
        self._turns[bundle].set_result(number)
        return True

    def line_up(self, bundle: str) -> None:
        """See Executor."""
        self._turns[bundle] = self._turn()

    def release(self, bundle: str) -> None:
        """See Executor."""
        turn = self._turns.pop(bundle, None)
        if turn is not None:
            self._give_up(turn)

    def _young_lane(self) -> int | None:
        """A slot whose run has just begun and has nothing behind it."""
        since_s = asyncio.get_running_loop().time() - YOUNG_S
        for number, lane in self._lanes.items():
            is_young = lane.began_s > since_s and bool(lane.followers)
            if is_young and number < len(self._places) and self._places[number] < PLACES:
                return number
        return None

    async def start(self, bundle: str, follower: Follower) -> None:
        """See Executor."""
        turn = self._turns.pop(bundle, None) or self._turn()
        try:
            number = await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        try:
            lane = self._lanes.get(number) or await self._lane(number)
        except BaseException as error:
            self._give(number)
            if isinstance(error, SupervisorUnavailable):
                raise ExecutorUnavailable(error.message) from error
            raise
        self._hold(lane, bundle, follower)
        await lane.slot.spawn(bundle)

    async def adopt(self, bundle: str, follower: Follower) -> bool:
        """See Executor."""
        await self._discover()
        for lane in self._lanes.values():
            hello = lane.slot.hello
            if bundle == hello.bundle or bundle in hello.queued:
                if lane.number in self._free:
                    self._free.remove(lane.number)
                    heapq.heapify(self._free)
                if lane.number < len(self._places):
                    self._places[lane.number] += 1
                self._hold(lane, bundle, follower)
                return True
        return False

    async def recover(self, bundle: str) -> ExitRecord:
        """See Executor."""
        try:
            return await self._supervisor.recover(bundle)
        except SupervisorUnavailable as error:
            raise ExecutorUnavailable(error.message) from error

    def stop(self, bundle: str, by: str, grace_s: float) -> None:
        """See Executor."""
        lane = self._of.get(bundle)
        if lane is not None:
            reason = cast("StopReason", by)
            self._send(lane.slot.stop(bundle, reason, grace_s))
        if lane is not None or bundle in self._between_slots:
            self._stops[bundle] = by, grace_s

    def acknowledged(self, bundle: str, stdout_bytes: int, stderr_bytes: int) -> None:
        """See Executor."""
        lane = self._of.get(bundle)
        if lane is not None:
            self._send(lane.slot.acked(bundle, stdout_bytes, stderr_bytes))

    async def shut_down(self) -> None:
        """Lets the supervisor go: idle slots end now, busy ones after their runs."""
        await self._supervisor.shutdown()

    def _send(self, command: Coroutine[Any, Any, None]) -> None:
        """Sends a command in the background; commands of one lane keep their order."""
        self._group.create_task(command, name="slot command")

    # Room

    def _turn(self) -> asyncio.Future[int]:
        """Gives the number of a free slot, the lowest (which is warm), when it is its turn."""
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._free and not self._waiting:
            number = heapq.heappop(self._free)
            self._places[number] += 1
            turn.set_result(number)
        else:
            self._waiting.append(turn)
        return turn

    def _give_up(self, turn: asyncio.Future[int]) -> None:
        """Nobody wants this turn any more, whether it has come or not."""
        if not turn.cancel() and not turn.cancelled():
            self._give(turn.result())

    def _give(self, number: int) -> None:
        """A place is free; with the last one of a slot it is the turn of who waits longest."""
        if number >= len(self._places):  # of an earlier agent that had more slots
            return
        self._places[number] -= 1
        if self._places[number]:
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._places[number] += 1
                turn.set_result(number)
                return
        heapq.heappush(self._free, number)

    def _hold(self, lane: _Lane, bundle: str, follower: Follower) -> None:
        """Notes who follows a bundle, and where it is."""
        if not lane.followers:
            lane.began_s = asyncio.get_running_loop().time()
        lane.followers[bundle] = follower
        self._of[bundle] = lane

    def _release(self, lane: _Lane, bundle: str) -> Follower | None:
        """A bundle has left its slot."""
        self._of.pop(bundle, None)
        follower = lane.followers.pop(bundle, None)
        if follower is not None:
            self._give(lane.number)
        return follower

    # Slots

    async def _lane(self, number: int) -> _Lane:
        """The connection to a slot; its supervisor is forked where it has none."""
        async with self._connecting.setdefault(number, asyncio.Lock()):
            lane = self._lanes.get(number)
            if lane is None:
                slot = await self._supervisor.slot(number)
                lane = self._lanes[number] = _Lane(number, slot)
                self._group.create_task(self._listen(lane), name=f"slot {number}")
            return lane

    async def _discover(self) -> None:
        """Connects to the slots that an earlier agent has left."""
        if self._is_discovered:
            return
        self._is_discovered = True
        for name in sorted(os.listdir(self._supervisor.sockets())):
            number = name.removeprefix("slot-").removesuffix(".sock")
            if name == f"slot-{number}.sock" and number.isdecimal():
                await self._lane(int(number))

    async def _listen(self, lane: _Lane) -> None:
        """Hears a slot until it is gone, then sees to what it had."""
        try:
            async for event in lane.slot:
                self._on_event(lane, event)
        finally:
            self._lanes.pop(lane.number, None)
            await lane.slot.close()
        for bundle in list(lane.followers):
            self._group.create_task(self._rescue(lane, bundle), name=f"rescue {bundle}")

    def _on_event(self, lane: _Lane, event: Event) -> None:
        """Passes an event on to who follows its bundle."""
        follower = lane.followers.get(getattr(event, "bundle", None) or "", _NOBODY)
        match event:
            case Output():
                follower.output()
            case Started(at_unix_ns=at_unix_ns):
                lane.began_s = asyncio.get_running_loop().time()
                follower.started(at_unix_ns)
            case Stuck(pids=pids):
                follower.stuck(pids)
            case DiskFull():
                follower.disk_full()
            case Exited(bundle=bundle, record=record):
                self._release(lane, bundle)
                self._stops.pop(bundle, None)
                follower.exited(record)
            case Refused(op="spawn", bundle=str(bundle), why=why):
                self._release(lane, bundle)
                self._stops.pop(bundle, None)
                follower.refused(why)
            case Refused(op=op, bundle=bundle, why=why):
                journal.info("slot_refused", slot=lane.number, op=op, bundle=bundle, why=why)
            case SlotLost(pid=pid):
                journal.warning("slot_lost", slot=lane.number, pid=pid)

    async def _rescue(self, lane: _Lane, bundle: str) -> None:
        """A slot has died with a bundle: its run is over, or, if it had not begun, begins anew."""
        if not _was_begun(bundle):
            follower = self._release(lane, bundle)
            if follower is not None:
                await self._start_anew(bundle, follower)
            return
        while True:
            try:
                record = await self.recover(bundle)
                break
            except ExecutorUnavailable as error:
                journal.warning("recover_failed", bundle=bundle, why=str(error))
                lane.followers.get(bundle, _NOBODY).held_up(str(error))
                await asyncio.sleep(RECOVER_RETRY_S)
        follower = self._release(lane, bundle)
        self._stops.pop(bundle, None)
        if follower is not None:
            follower.exited(record)

    async def _start_anew(self, bundle: str, follower: Follower) -> None:
        """Gives a bundle another slot, which has to hear, too, how it is to be stopped."""
        self._between_slots.add(bundle)
        try:
            await self.start(bundle, follower)
        except ExecutorUnavailable as error:
            self._stops.pop(bundle, None)
            follower.refused(str(error))
        finally:
            self._between_slots.discard(bundle)
        if bundle in self._stops:
            self.stop(bundle, *self._stops[bundle])


def _was_begun(bundle: str) -> bool:
    """Whether a supervisor has ever claimed the bundle."""
    return os.path.lexists(f"{bundle}/state.json")
