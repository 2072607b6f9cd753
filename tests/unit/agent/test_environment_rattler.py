"""The process that rattler is in: it waits for the next request, and holds nothing meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runyard_agent.environments.conda_lock import CondaLock
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.rattler_calls import Rattler
from support.conda_channel import CondaChannel

LIMIT_S = 60.0


class Bench:
    """Calls of rattler with a package cache of its own."""

    def __init__(self, folder: Path, channel: CondaChannel) -> None:
        self.channel = channel
        cache = {"RATTLER_CACHE_DIR": str(folder / "cache")}
        self.rattler = Rattler({"HOME": str(folder), "PATH": os.environ["PATH"], **cache})
        self.lock_file = folder / "lock"
        self._folder = folder
        self._prefixes = 0

    async def solve(self, *specs: str) -> CondaLock:
        return await self.rattler.solve(specs, [self.channel.url], lambda said: None)

    async def install(self, lock: CondaLock) -> Path:
        """Installs into a new folder; `lock_file` is held meanwhile."""
        self._prefixes += 1
        prefix = self._folder / f"prefix-{self._prefixes}"
        fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await self.rattler.install(lock, prefix, lambda said: None, (fd,))
        finally:
            os.close(fd)
        return prefix


def waiting_processes() -> set[int]:
    """The processes of rattler that this process has started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"rattler_program" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), LIMIT_S)

    asyncio.run(limited())


@pytest.fixture
def bench(tmp_path: Path, small_channel: CondaChannel) -> Bench:
    return Bench(tmp_path, small_channel)


@pytest.fixture
def small_channel(tmp_path: Path) -> CondaChannel:
    """A channel with packages that need no Python."""
    channel = CondaChannel(tmp_path / "channel")
    channel.add_files("rydata", "1.0", {"share/rydata": "one\n"})
    channel.index()
    return channel


def test_one_process_solves_and_installs_again_and_again(bench: Bench) -> None:
    async def work() -> None:
        lock = await bench.solve("rydata")
        used = waiting_processes()
        for _ in range(2):
            prefix = await bench.install(lock)
            assert (prefix / "share" / "rydata").read_text() == "one\n"
        assert waiting_processes() == used
        assert len(used) == 1

    run(work)


def test_process_that_waits_holds_no_folder(bench: Bench) -> None:
    async def work() -> None:
        await bench.install(await bench.solve("rydata"))
        with bench.lock_file.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    run(work)


def test_process_killed_while_it_waits_is_replaced(bench: Bench) -> None:
    async def work() -> None:
        lock = await bench.solve("rydata")
        (pid,) = waiting_processes()
        process = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [])
        os.close(process)
        assert await bench.install(lock)

    run(work)


def test_changed_file_is_refused_until_the_locked_one_is_in_the_cache(bench: Bench) -> None:
    async def work() -> None:
        lock = await bench.solve("rydata")
        (file,) = bench.channel.folder.rglob("rydata-*.conda")
        locked = file.read_bytes()
        file.write_bytes(locked[:-1] + b"?")
        with pytest.raises(EnvironmentFailed, match="rydata"):
            await bench.install(lock)
        file.write_bytes(locked)
        await bench.install(lock)
        file.write_bytes(b"")
        prefix = await bench.install(lock)
        assert (prefix / "share" / "rydata").read_text() == "one\n"

    run(work)
