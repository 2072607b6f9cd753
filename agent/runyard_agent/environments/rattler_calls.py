"""Calls of rattler, which solves and installs conda packages, in a process of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runyard_agent.environments.conda_diagnosis import explain
from runyard_agent.environments.conda_lock import CondaLock, CondaPackage, solved
from runyard_agent.environments.conversation import Conversation
from runyard_agent.environments.protocol import EnvironmentFailed

PROGRAM = "runyard_agent.environments.rattler_program"
_SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

IDLE_S = 60.0
"""How long a process waits for the next request, such as the installation that mostly follows a
solution: it takes longer to start than to answer."""

Hear = Callable[[bytes], None]
Mirrors = Mapping[str, Sequence[str]]
"""Where conda channels are read instead, by channel, in the order in which they are tried."""


def node_subdir() -> str:
    """conda's name of this node's platform, such as "linux-64"."""
    machine = os.uname().machine
    if machine not in _SUBDIRS:
        raise EnvironmentFailed(
            f"there are no conda packages for {machine}",
            "use pip packages, or a Python that is on the node",
            {"platform": machine},
        )
    return _SUBDIRS[machine]


def lock_platform() -> str:
    """The platform that locks are for. A GPU makes one of its own: its packages are other ones."""
    return f"{node_subdir()}{'-cuda' if _NVIDIA_DRIVER.exists() else ''}"


class Rattler:
    """Calls of rattler.

    Args:
        environ: the agent's variables.
        mirrors: where channels are read instead.
    """

    def __init__(self, environ: Mapping[str, str], mirrors: Mirrors | None = None) -> None:
        self._environ = environ
        self._mirrors = {channel: list(urls) for channel, urls in (mirrors or {}).items()}
        self._idle: dict[Conversation, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def solve(
        self,
        specs: Sequence[str],
        channels: Sequence[str],
        hear: Hear,
        *,
        is_refresh: bool = False,
    ) -> CondaLock:
        """The packages that fit match specs, from these channels, on this node.

        With `is_refresh` the channels are read anew, whatever is remembered of them. Raises
        EnvironmentFailed, naming the package, the channel or the contradiction.
        """
        request = {
            "specs": list(specs),
            "channels": list(channels),
            "subdir": node_subdir(),
            "is_refresh": is_refresh,
        }
        answer = await self._ask("solve", request, hear)
        return solved(CondaPackage(**one) for one in answer["packages"])

    async def install(
        self,
        lock: CondaLock,
        prefix: Path,
        hear: Hear,
        kept_fds: Sequence[int],
        packages: Path | None = None,
    ) -> None:
        """Installs the conda packages of a lock into a folder that is not there yet.

        Raises EnvironmentFailed. The process has `kept_fds` meanwhile. Packages are kept in the
        folder `packages`. Default: rattler's cache.
        """
        request = {
            "packages": [asdict(package) for package in lock.packages],
            "needs": lock.needs,
            "prefix": str(prefix),
            "cache": str(packages or ""),
        }
        await self._ask("install", request, hear, kept_fds)

    async def _ask(
        self, action: str, request: Mapping[str, Any], hear: Hear, kept_fds: Sequence[int] = ()
    ) -> Mapping[str, Any]:
        """The answer of a process; EnvironmentFailed for a fault that it tells of."""
        if importlib.util.find_spec("rattler") is None:
            raise EnvironmentFailed(
                "py-rattler, which installs conda packages, is not in the agent's environment",
                "install it with `pip install 'runyard[conda]'` into the environment that runyard"
                " is installed in",
                {"package": "py-rattler"},
            )
        process = self._taken() or await Conversation.start(
            (sys.executable, "-P", "-m", PROGRAM), self._environ
        )
        question = json.dumps({"action": action, "mirrors": self._mirrors, **request}).encode()
        outcome = await process.ask(question, hear, kept_fds)
        if outcome.returncode == 0:
            self._keep(process)
        else:
            await process.close()
        if outcome.returncode != 0:
            last = outcome.said.strip().rpartition("\n")[2]
            said = last or f"it ended with {outcome.returncode}"
            fault = explain({"kind": "broken", "said": said})
        else:
            answer: Mapping[str, Any] = json.loads(outcome.answer)
            if "fault" not in answer:
                return answer
            fault = explain({**request, **answer["fault"]})
        raise EnvironmentFailed(fault.message, fault.advice, fault.metadata)

    def _taken(self) -> Conversation | None:
        """A process that waits for a request, if there is one."""
        while self._idle:
            process, timer = self._idle.popitem()
            timer.cancel()
            if not process.has_ended:
                return process
            self._close(process)
        return None

    def _keep(self, process: Conversation) -> None:
        """Lets a process wait for the next request, for a while."""
        loop = asyncio.get_running_loop()
        self._idle[process] = loop.call_later(IDLE_S, self._end, process)

    def _end(self, process: Conversation) -> None:
        """Nothing came."""
        del self._idle[process]
        self._close(process)

    def _close(self, process: Conversation) -> None:
        task = asyncio.get_running_loop().create_task(process.close(), name="rattler ends")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
