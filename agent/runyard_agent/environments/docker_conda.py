"""conda packages on top of an image: an environment of the node, copied to the same path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.environments.docker_calls import ask_in_container
from runyard_agent.environments.docker_probe import variables
from runyard_agent.environments.docker_work import work_labels
from runyard_agent.environments.protocol import ProvidedEnvironment
from runyard_agent.environments.rattler_calls import Mirrors
from runyard_agent.environments.shared_work import Audience
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentLock, EnvironmentSpec

PYTHON_LABEL = "dev.runyard.python"
"""On an image with conda packages on top: the path of their Python."""


class DockerConda:
    """Builds conda environments on the node, in its cache, and copies them into images."""

    def __init__(
        self,
        cache: EnvironmentCache,
        environ: Mapping[str, str],
        mirrors: Mirrors | None = None,
        *,
        is_offline: bool = False,
    ) -> None:
        self._environ = environ
        self._root = cache.root
        self._conda = CondaBuilder(cache, environ, mirrors, is_offline=is_offline)

    async def resolve(
        self, conda: CondaPackages, audience: Audience, *, is_refresh: bool = False
    ) -> EnvironmentLock:
        """The lock of the packages; the environment is built on the node with it."""
        provided = await self._provide(conda, [], audience, is_refresh=is_refresh)
        return provided.lock or EnvironmentLock()

    async def install(
        self,
        api: DockerApi,
        conda: CondaPackages,
        base: Mapping[str, Any],
        lock: EnvironmentLock,
        tag: str,
        labels: Mapping[str, str],
        audience: Audience,
        lock_fd: int,
    ) -> str:
        """Makes an image of the base with the packages of a lock; gives its id."""
        provided = await self._provide(conda, [lock], audience)
        python = os.fsdecode(provided.python)
        folder = os.path.dirname(python)
        env = {os.fsdecode(name): os.fsdecode(value) for name, value in provided.env.items()}
        env["PATH"] = f"{folder}:{variables(base)['PATH']}"
        config = base.get("Config") or {}
        name = f"runyard-build-{tag.rpartition(':')[2]}"
        audience.progress("copying the conda environment into the image")
        request = {
            "action": "copy",
            "image": str(base["Id"]),
            "name": name,
            "prefix": os.path.dirname(folder),
            "tag": tag,
            "labels": {**labels, PYTHON_LABEL: python},
            "work": work_labels(self._root),
            "image_env": env,
            "has_command": bool(config.get("Cmd") or config.get("Entrypoint")),
        }
        answer = await ask_in_container(api, request, self._environ, audience.write, (lock_fd,))
        return str(answer["image"])

    async def _provide(
        self,
        conda: CondaPackages,
        locks: list[EnvironmentLock],
        audience: Audience,
        *,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        return await self._conda.provide(
            EnvironmentSpec(conda=conda),
            locks,
            log=audience,
            progress=audience.progress,
            is_refresh=is_refresh,
        )
