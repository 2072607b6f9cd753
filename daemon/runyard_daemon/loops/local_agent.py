"""Keeps an agent alive on the daemon's own machine.

The agent outlives its daemon on purpose: one that is there already (its lock is held) comes back by
itself, and none is started beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runyard_contract.lockfile import lock_holder
from runyard_contract.logfile import open_log
from runyard_daemon.journal import Journal
from runyard_daemon.settings import ENVIRONMENTS_MAX_BYTES, SEAL_MODES

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
"""An agent that lived that long was started well: the next failure counts as the first."""
LOOK_S = 1.0
"""How often an agent that can't be waited for is looked for."""


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """Where the local agent lives."""

    home: Path
    """The daemon's data directory."""
    socket: Path
    environments_max_bytes: int = ENVIRONMENTS_MAX_BYTES
    """Built environments that it keeps."""
    channel_mirrors: tuple[tuple[str, str], ...] = ()
    """Conda channels, and where it reads them instead."""
    conda: str = "auto"
    """Its own conda program: "auto", "builtin" or a path."""
    is_offline: bool = False
    """It builds no environments."""
    seal: str = SEAL_MODES[0]
    """Which built environments it seals."""

    @property
    def lock(self) -> Path:
        """Held by the agent as long as it lives."""
        return self.home / "agent" / "agent.lock"

    def command(self) -> list[str]:
        """How it is started: never with the caller's modules."""
        return [
            sys.executable,
            "-P",
            "-m",
            "runyard_agent",
            "--local",
            "--home",
            str(self.home / "agent"),
            "--daemon-socket",
            str(self.socket),
            "--blobs",
            str(self.home / "blobs"),
            "--environments-max-bytes",
            str(self.environments_max_bytes),
            f"--conda={self.conda}",
            *(f"--channel-mirror={channel}={url}" for channel, url in self.channel_mirrors),
            f"--seal={self.seal}",
            *(["--offline"] if self.is_offline else []),
        ]


def agent_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The daemon's own variables without those that change what Python imports."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("PYTHON", "RUNYARD_")) and name != "__PYVENV_LAUNCHER__"
    }


class LocalAgent:
    """The agent of this machine."""

    def __init__(self, place: AgentPlace, journal: Journal) -> None:
        self._place = place
        self._journal = journal
        self._started: subprocess.Popen[bytes] | None = None

    def pid(self) -> int | None:
        """The agent's process, also one that is only coming up; None where none lives."""
        holder = lock_holder(self._place.lock)
        if holder:
            return holder
        if self._started is not None and self._started.poll() is None:
            return self._started.pid
        return None

    def end(self) -> None:
        """Asks the agent to end where no session can tell it so; its runs go on."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    async def keep(self) -> None:
        """Starts the agent again whenever it is missing. Never returns."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            holder = lock_holder(self._place.lock)
            if holder is not None:
                await _gone(holder)
                continue
            started = loop.time()
            try:
                process = self._started = _start(self._place)
            except OSError as error:  # a full disk, no memory for another process
                failures += 1
                self._journal.warning("agent_not_started", why=str(error))
                await asyncio.sleep(pause_s(failures, random.random()))  # noqa: S311 - no secret
                continue
            self._journal.info("agent_started", pid=process.pid)
            await _gone(process.pid)
            code = process.wait()
            lived_s = loop.time() - started
            failures = 1 if lived_s >= STEADY_S else failures + 1
            self._journal.warning(
                "agent_ended", pid=process.pid, code=code, lived_s=round(lived_s, 1)
            )
            await asyncio.sleep(pause_s(failures, random.random()))  # noqa: S311 - no secret


def pause_s(failures: int, chance: float) -> float:
    """The pause before the next start: anywhere up to a bound that doubles with each failure.

    Args:
        failures: in a row, from 1.
        chance: 0 to 1, uniform: so that many daemons don't start theirs at one moment.
    """
    return chance * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 16))


def _start(place: AgentPlace) -> subprocess.Popen[bytes]:
    log = open_log(place.home / "agent.log")
    try:
        return subprocess.Popen(
            place.command(),
            cwd=place.home,
            env=agent_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


async def _gone(pid: int) -> None:
    """Waits until a process has ended; one that can't be waited for is looked at again soon."""
    try:
        fd = os.pidfd_open(pid) if pid else -1
    except OSError:
        fd = -1
    if fd < 0:
        await asyncio.sleep(LOOK_S)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        with contextlib.suppress(OSError):
            loop.remove_reader(fd)
        os.close(fd)
