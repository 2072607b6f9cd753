"""A node that is offline uses the images that its engine has, and fetches and builds none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.environment_case import Log, provide, run
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec, PipPackages
from support.docker_engine import PYTHON_IMAGE, DockerEngine


@pytest.mark.slow
def test_image_of_the_engine_is_used_and_all_others_are_refused(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    environ = {"PATH": os.environ["PATH"], "DOCKER_HOST": docker_engine.url}
    builder = DockerBuilder(EnvironmentCache(tmp_path), environ, is_offline=True)
    layered = DockerImage(image=PYTHON_IMAGE, pip=PipPackages(requirements=["six"]))

    found = run(provide(builder, EnvironmentSpec(docker=DockerImage(image=PYTHON_IMAGE))))
    refused = []
    for image in (
        DockerImage(image="runyard-test/nowhere:1"),
        DockerImage(dockerfile=f"FROM {PYTHON_IMAGE}\nRUN true\n"),
        layered,
    ):
        with pytest.raises(EnvironmentFailed, match="this node is offline") as failed:
            run(provide(builder, EnvironmentSpec(docker=image), Log()))
        refused.append(failed.value)

    assert found.container is not None
    assert "runyard-test/nowhere:1 is not in the engine" in refused[0].message
    assert "docker load" in refused[0].advice
