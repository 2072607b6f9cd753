"""A builder of conda environments over a folder of a test."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contract.environment_case import Log
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentLock, EnvironmentSpec
from support.packages import make_wheel

LIMIT_S = 60.0


class Bench:
    """A builder over a folder of its own, with packages from one channel.

    `cache` keeps packages of the channel over tests. Default: one of its own.
    """

    def __init__(self, folder: Path, channel: str, cache: Path | None = None) -> None:
        self.root = folder / "environments"
        self.root.mkdir(parents=True)
        self.channel = channel
        self.links = folder / "links"
        self.links.mkdir()
        self.log = Log()
        self.environ = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "RATTLER_CACHE_DIR": str(cache or folder / "cache"),
            "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"],
        }
        self.builder = CondaBuilder(EnvironmentCache(self.root), self.environ)

    def wheel(self, name: str, version: str = "1.0", requires: list[str] | None = None) -> None:
        make_wheel(self.links, name, version, requires=requires or [])

    async def provide(
        self, *packages: str, locks: tuple[EnvironmentLock, ...] = (), **more: Any
    ) -> ProvidedEnvironment:
        wish = {
            "channels": [self.channel],
            "pip_index_options": ["--no-index", f"--find-links={self.links}"],
            **more,
        }
        spec = EnvironmentSpec(conda=CondaPackages(packages=packages, **wish))
        return await self.builder.provide(spec, locks, log=self.log, progress=lambda doing: None)

    def get(self, *packages: str, **more: Any) -> ProvidedEnvironment:
        return asyncio.run(asyncio.wait_for(self.provide(*packages, **more), LIMIT_S))

    def fail(self, *packages: str, **more: Any) -> EnvironmentFailed:
        with pytest.raises(EnvironmentFailed) as caught:
            self.get(*packages, **more)
        assert caught.value.advice
        assert caught.value.message in self.log.text
        return caught.value

    def folders(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_dir()]


def execute(provided: ProvidedEnvironment, code: str) -> str:
    """What code prints as a job in the environment."""
    ended = subprocess.run(
        [provided.python, "-c", code],
        env=dict(provided.env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()
