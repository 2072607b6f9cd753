"""conda packages on top of an image, which needs no Python of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.environment_case import Log, execute, provide, run
from integration.test_docker_builds import environ, images
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyardpb.v1.environments_pb2 import CondaPackages, DockerImage, EnvironmentSpec
from support.conda_channel import CondaChannel
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine


def spec(channel: CondaChannel, *packages: str, image: str = SHELL_IMAGE) -> EnvironmentSpec:
    conda = CondaPackages(packages=packages, channels=[channel.url])
    return EnvironmentSpec(docker=DockerImage(image=image, conda=conda, network="none"))


@pytest.mark.parametrize("image", [SHELL_IMAGE, PYTHON_IMAGE])
def test_environment_of_the_node_is_copied(
    docker_engine: DockerEngine, conda_channel: CondaChannel, tmp_path: Path, image: str
) -> None:
    def make() -> DockerBuilder:
        return DockerBuilder(EnvironmentCache(tmp_path), environ(docker_engine))

    wanted, log = spec(conda_channel, "rytop", image=image), Log()
    first = run(provide(make(), wanted))
    assert first.lock is not None
    again = run(provide(make(), wanted, log, [first.lock]))

    proof = "import os, sys, ryleaf, rytop; assert sys.prefix == os.environ['CONDA_PREFIX']"
    assert execute(first, proof).returncode == 0
    assert execute(first, "import os; print(oct(os.stat('/tmp').st_mode))").stdout == "0o41777\n"
    assert first == again
    assert "already built" in log.text
    assert first.env[b"PATH"].startswith(os.path.dirname(first.python) + b":")
    assert docker_engine.containers() == []
    for name in images(docker_engine, tmp_path):
        docker_engine.docker("rmi", "-f", name)
