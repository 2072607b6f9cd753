"""An environment builder that takes images as they are, for agents that have none for containers.

Installed by `install` as a distribution of its own; where the agent brings one, that counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from runyard_agent.environments.protocol import (
    Container,
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.registry import BuilderContext
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec

TESTS = Path(__file__).parent.parent


class PlainDockerBuilder:
    """Looks the image up at the engine that DOCKER_HOST names."""

    kind = "docker"

    def __init__(self, context: BuilderContext) -> None:
        self._host = context.environ["DOCKER_HOST"]

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder."""
        command = ["docker", "image", "inspect", "-f", "{{.Id}}", spec.docker.image]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        image = (await process.communicate())[0].decode().strip()
        if not image:
            raise EnvironmentFailed(f"there is no image {spec.docker.image}")
        engine = self._host.removeprefix("unix://")
        python = b"" if "shell" in spec.docker.image else b"/usr/local/bin/python3"
        container = Container(engine, image, "/bin/sh", spec.docker)
        return ProvidedEnvironment(python=python, container=container)


def install(folder: Path, docker_host: str) -> dict[str, str]:
    """The variables of an agent that has this builder."""
    distribution = folder / "plain_docker_builder-1.dist-info"
    distribution.mkdir(parents=True)
    (distribution / "METADATA").write_text("Name: plain-docker-builder\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(
        "[runyard.environment_builders]\ndocker = support.plain_docker_builder:PlainDockerBuilder\n"
    )
    path = os.pathsep.join((str(folder), str(TESTS)))
    return {"PYTHONPATH": path, "DOCKER_HOST": docker_host}
