"""A real agent process for a fake daemon, and what asynchronous tests need around it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from support.fake_daemon import LIMIT_S, FakeDaemon, Held
from support.house import end_processes_naming


class AgentProcess:
    """A real agent process for a fake daemon."""

    def __init__(
        self,
        daemon: FakeDaemon,
        *,
        slots: int = 2,
        blobs: bool = True,
        environments_max_bytes: int = 1 << 40,
        launcher: Sequence[str] = (),
        options: Sequence[str] = (),
        home: str = "agent",
    ) -> None:
        """`launcher`: words before the command that start it, such as setpriv's."""
        self.daemon = daemon
        self._launcher = tuple(launcher)
        self.home = daemon.root / home
        self._options = options
        self.log = daemon.root / "agent.log"
        self._slots = slots
        self._blobs = blobs
        self._environments_max_bytes = environments_max_bytes
        self.process: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        """The command line that a daemon starts it with."""
        command = [sys.executable, "-P", "-m", "runyard_agent", "--local"]
        command += ["--home", str(self.home), "--daemon-socket", str(self.daemon.socket)]
        command += ["--slots", str(self._slots)]
        command += ["--environments-max-bytes", str(self._environments_max_bytes)]
        command += ["--blobs", str(self.daemon.blobs_path)] if self._blobs else []
        return [*command, *self._options]

    def bundle(self, held: Held) -> Path:
        """The folder of an attempt."""
        return self.home / "runs" / f"{held.run_id}.{held.lease.ref.attempt}"

    async def start(self) -> None:
        """Starts it; it lives until `kill` or `stop`."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._launcher,
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.daemon.root,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """Ends it at once; its supervisor goes on."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self, limit_s: float = 15.0) -> int:
        """Asks it to end and waits for that; returns its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(limit_s):
            return await self.process.wait()

    def end_all(self) -> None:
        """Ends every process that belongs to this agent's folder."""
        end_processes_naming(str(self.daemon.root))


@contextlib.asynccontextmanager
async def house(**options: Any) -> AsyncIterator[tuple[FakeDaemon, AgentProcess]]:
    """A fake daemon and an agent, neither of them started; nothing is left behind."""
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    daemon = FakeDaemon(root)
    agent = AgentProcess(daemon, **options)
    try:
        yield daemon, agent
    except BaseException:
        print(agent.log.read_text() if agent.log.exists() else "no agent.log")  # shown by pytest
        raise
    finally:
        await agent.kill()
        agent.end_all()
        shutil.rmtree(root, ignore_errors=True)


@contextlib.asynccontextmanager
async def node(**options: Any) -> AsyncIterator[tuple[FakeDaemon, AgentProcess]]:
    """A fake daemon that serves and a real agent process."""
    async with house(**options) as (daemon, agent), daemon.serving():
        await agent.start()
        yield daemon, agent


async def becomes(check: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Polls, with the loop running, until `check` gives something true; for other processes."""
    async with asyncio.timeout(limit_s):
        while not (value := check()):  # noqa: ASYNC110 - another process gives no event
            await asyncio.sleep(0.02)
    return value


P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Makes a test of a coroutine function."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def body() -> None:
            await test(*args, **kwargs)

        asyncio.run(body())

    return run
