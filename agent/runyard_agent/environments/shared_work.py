"""Work that several runs need at the same time: done once, watched by all, ended when unwanted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runyard_agent.environments.protocol import EnvironmentFailed, Progress, TextSink

Result = TypeVar("Result")
TRANSCRIPT_BYTES = 256 << 10
"""What somebody who joins later still gets to read of the work so far."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """One run's log and status line."""

    log: TextSink
    progress: Progress


class Audience:
    """All listeners of one piece of work. Who joins later gets what was said before."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._transcript = bytearray()
        self._doing = ""

    def join(self, listener: Listener) -> None:
        """Adds a listener, who reads the transcript first."""
        if self._transcript:
            listener.log.write(bytes(self._transcript))
        if self._doing:
            listener.progress(self._doing)
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Takes a listener out."""
        self._listeners.remove(listener)

    def write(self, data: bytes) -> None:
        """Appends to every listener's log."""
        self._transcript += data
        del self._transcript[:-TRANSCRIPT_BYTES]
        for listener in self._listeners:
            listener.log.write(data)

    def say(self, line: str) -> None:
        """Appends a line of text to every listener's log."""
        self.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def progress(self, doing: str) -> None:
        """Sets every listener's status line."""
        self._doing = doing
        for listener in self._listeners:
            listener.progress(doing)


@contextlib.contextmanager
def failures_told(audience: Audience) -> Iterator[None]:
    """Writes to the log what failed, for work whose own output does not say it."""
    try:
        yield
    except EnvironmentFailed as failed:
        audience.say(f"Failed: {failed.message}")
        raise


@dataclass(slots=True, eq=False)
class _Running(Generic[Result]):
    """Work under way, with the number of those who wait for it."""

    task: asyncio.Task[Result]
    audience: Audience
    waiting: int = field(default=0)


class SharedWork(Generic[Result]):
    """Runs work once for each key however many ask for it at the same time. Keeps no results.

    Args:
        name: of its tasks.
        joined: the line that somebody reads who joins work which another began.
    """

    def __init__(self, name: str, joined: str) -> None:
        self._name = name
        self._joined = joined
        self._running: dict[str, _Running[Result]] = {}

    async def do(
        self, key: str, work: Callable[[Audience], Awaitable[Result]], listener: Listener
    ) -> Result:
        """Does the work, or waits for the one of that key that is under way.

        Raises what the work raises, to all who wait. When the last of them is cancelled the work
        is cancelled too, and has ended before this returns.
        """
        running = self._running.get(key)
        if running is None:
            running = self._start(key, work)
        else:
            listener.log.write(self._joined.encode() + b"\n")
        running.audience.join(listener)
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            running.audience.leave(listener)
            if not running.waiting and not running.task.done():
                self._forget(key, running)
                running.task.cancel()
                await asyncio.wait([running.task])

    def _start(self, key: str, work: Callable[[Audience], Awaitable[Result]]) -> _Running[Result]:
        """Starts the work as a task of its own, so that it outlives who asked first."""
        audience = Audience()

        async def run() -> Result:
            return await work(audience)

        task = asyncio.get_running_loop().create_task(run(), name=f"{self._name} {key[:16]}")
        running = _Running(task, audience)
        self._running[key] = running
        task.add_done_callback(lambda done: self._ended(key, running))
        return running

    def _ended(self, key: str, running: _Running[Result]) -> None:
        """The work is over; nobody may be left to see its error."""
        self._forget(key, running)
        if not running.task.cancelled():
            running.task.exception()

    def _forget(self, key: str, running: _Running[Result]) -> None:
        """Has the next who asks start anew."""
        if self._running.get(key) is running:
            del self._running[key]
