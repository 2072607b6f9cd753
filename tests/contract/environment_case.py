"""What the suites of environment builders are given, and how they ask a builder.

`Case` is for all kinds, `BuildingCase` for those that build something, `FaultCase` for those that
resolve packages.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.protocol import (
    EnvironmentBuilder,
    ProvidedEnvironment,
)
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec
from support.packages import Gate

LIMIT_S = 120.0
Result = TypeVar("Result")
KILL_SOURCE = """
import asyncio, os, sys
from pathlib import Path
from {module} import {name} as Builder
from runyard_agent.environments.cache import EnvironmentCache
from runyardpb.v1.environments_pb2 import EnvironmentSpec

class Log:
    def write(self, data):
        pass

spec = EnvironmentSpec.FromString({spec!r})
builder = Builder(EnvironmentCache(Path({root!r})), {environ!r}{more})
asyncio.run(builder.provide(spec, (), log=Log(), progress=lambda doing: None))
"""


class Log:
    """An attempt's environment.txt and status line."""

    def __init__(self) -> None:
        self.data = b""
        self.doing: list[str] = []
        self._written = asyncio.Event()

    @property
    def text(self) -> str:
        return self.data.decode()

    def write(self, data: bytes) -> None:
        self.data += data
        self._written.set()

    async def says(self, words: str) -> None:
        """Waits until the log holds these words."""
        while words not in self.text:
            self._written.clear()
            await self._written.wait()


@dataclass(frozen=True)
class Case:
    """A builder under test.

    make: a new builder, as after a restart of the agent, over the same folder.
    good: a specification that can be provided. proof: Python code that runs only in it.
    missing: one that names what does not exist. missing_name: that name.
    """

    make: Callable[[], EnvironmentBuilder]
    good: EnvironmentSpec
    proof: str
    missing: EnvironmentSpec
    missing_name: str


@dataclass(frozen=True)
class BuildingCase(Case):
    """A builder that builds.

    same: a specification other than `good` that resolves to the same.
    slow: its build stops at `gate`. broken: its build fails half way. broken_name: because of this.
    make_cut_off: like `make`, but nothing can be fetched or installed.
    make_in: like `make`, with a cache over the folder `root` of its own making.
    other: a specification that can be provided, too, and needs another environment.
    built: the environments, whole or not, that lie in the builder's folder.
    kill_source: Python source of a program that provides `slow` and is to be killed.
    """

    same: EnvironmentSpec
    slow: EnvironmentSpec
    gate: Gate
    broken: EnvironmentSpec
    broken_name: str
    make_cut_off: Callable[[], EnvironmentBuilder]
    root: Path
    make_in: Callable[[EnvironmentCache], EnvironmentBuilder]
    other: EnvironmentSpec
    built: Callable[[], list[Path]]
    kill_source: str


@dataclass(frozen=True)
class FaultCase:
    """Specifications that can't be provided, and what has to be named of them.

    conflict: it contradicts itself, in the versions of `conflict_names`.
    metacharacters: a package's name has what a shell would act on, making the file `executed`.
    unreachable: packages are looked for at `unreachable_name`, too, which nobody serves.
    uncompilable: `uncompilable_name` has to be compiled, which ends with the line `last_line`.
    """

    conflict: EnvironmentSpec
    conflict_names: Sequence[str]
    metacharacters: EnvironmentSpec
    metacharacters_name: str
    executed: Path
    unreachable: EnvironmentSpec
    unreachable_name: str
    uncompilable: EnvironmentSpec
    uncompilable_name: str
    last_line: str


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs one coroutine, not longer than a test may take."""
    return asyncio.run(asyncio.wait_for(work, LIMIT_S))


async def provide(
    builder: EnvironmentBuilder,
    spec: EnvironmentSpec,
    log: Log | None = None,
    locks: Sequence[EnvironmentLock] = (),
    *,
    is_refresh: bool = False,
) -> ProvidedEnvironment:
    """What an attempt asks a builder for."""
    log = log or Log()
    return await builder.provide(
        spec, locks, log=log, progress=log.doing.append, is_refresh=is_refresh
    )


async def provide_to(
    user: str,
    cache: EnvironmentCache,
    builder: EnvironmentBuilder,
    spec: EnvironmentSpec,
    log: Log | None = None,
) -> ProvidedEnvironment:
    """What an agent does for a run, which has the environment until the cache hears of its end."""
    cache.uses.wait(user)
    provided = await provide(builder, spec, log)
    cache.uses.has(user, provided.lock.hash if provided.lock else None)
    return provided


def execute(provided: ProvidedEnvironment, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code as a job in the environment."""
    if provided.container is not None:
        return _execute_in_container(provided, code)
    return subprocess.run(
        [provided.python, "-c", code],
        env={b"PATH": os.path.dirname(provided.python), **provided.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _execute_in_container(
    provided: ProvidedEnvironment, code: str
) -> subprocess.CompletedProcess[str]:
    """Runs code as a job in a container of the environment's image, by Docker's own client."""
    assert provided.container is not None
    python = os.fsdecode(provided.python)
    variables = [f"--env={os.fsdecode(b'='.join(pair))}" for pair in provided.env.items()]
    return subprocess.run(
        [
            *("docker", "--host", f"unix://{provided.container.engine}", "run", "--rm"),
            *("--network=none", f"--entrypoint={python}", *variables),
            *(provided.container.image, "-c", code),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_built(cache: EnvironmentCache, provided: ProvidedEnvironment) -> bool:
    """Whether an environment that was provided is still there for the next run.

    Where it is not, its files must not be there, either.
    """
    if provided.key is not None and cache.ready(provided.key) is not None:
        return True
    assert provided.container is not None or not os.path.exists(provided.python)
    return False


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def kill_source(
    builder: type, spec: EnvironmentSpec, root: Path, environ: Mapping[str, str], more: str = ""
) -> str:
    """Source of an agent that provides one environment."""
    return KILL_SOURCE.format(
        module=builder.__module__,
        name=builder.__name__,
        spec=spec.SerializeToString(),
        root=str(root),
        environ=dict(environ),
        more=more,
    )
