"""Stored environments: messages of the contract to `Environment` objects."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

from runyard.conda_dependencies import CondaDependencies
from runyard.environment import Environment
from runyard.requirements import Requirements
from runyard_contract.docker_arguments import parse_docker_arguments
from runyard_contract.ids import EnvironmentName
from runyardpb.v1 import environments_pb2

E = TypeVar("E", bound=Environment)


def environment(message: environments_pb2.Environment, kind: type[E]) -> E:
    """The environment in a message, made as `kind`."""
    found = kind(EnvironmentName.parse(message.name).environment, str(message.version))
    spec = message.spec
    found.environment_variables = {
        os.fsdecode(one.name): os.fsdecode(one.value) for one in spec.variables
    }
    if spec.WhichOneof("backend") == "user_managed":
        found.python.user_managed_dependencies = True
        found.python.interpreter_path = os.fsdecode(spec.user_managed.interpreter_path) or "python"
        return found
    if spec.WhichOneof("backend") == "docker":
        _read_docker(found, spec.docker)
    elif spec.WhichOneof("backend") == "conda":
        found.python.conda_dependencies = _conda(spec.conda)
    else:
        found.python.conda_dependencies = _pip(spec.pip)
    return found


def _read_docker(found: Environment, docker: environments_pb2.DockerImage) -> None:
    """Takes over an image, and what is put on top of it."""
    found.docker.enabled = True
    found.docker.base_image = docker.image or None
    found.docker.base_dockerfile = docker.dockerfile or None
    found.docker.shm_size = str(docker.shm_bytes) if docker.shm_bytes else None
    found.docker.arguments = [*docker.arguments, *_own_arguments(docker)]
    if docker.WhichOneof("packages") == "conda":
        found.python.conda_dependencies = _conda(docker.conda)
    elif docker.WhichOneof("packages") == "pip":
        found.python.conda_dependencies = _pip(docker.pip)
    else:
        found.python.user_managed_dependencies = True
        found.python.interpreter_path = docker.interpreter_path or "python"


def _own_arguments(docker: environments_pb2.DockerImage) -> list[str]:
    """What other clients may have said in fields of its own, as options of `docker run`."""
    named = parse_docker_arguments(docker.arguments).host.get("NetworkMode")
    network = [f"--network={docker.network}"] if docker.network not in ("", named) else []
    mounts = (
        f"--volume={os.fsdecode(mount.source)}:{mount.target}{':ro' * mount.is_read_only}"
        for mount in docker.mounts
    )
    return [*network, *mounts]


def _conda(conda: environments_pb2.CondaPackages) -> CondaDependencies:
    return CondaDependencies.from_requirements(
        _requirements(conda.pip_requirements, conda.pip_constraints, conda.pip_index_options),
        conda.python_version or None,
        conda.packages,
        conda.channels,
    )


def _pip(pip: environments_pb2.PipPackages) -> CondaDependencies:
    return CondaDependencies.from_requirements(
        _requirements(pip.requirements, pip.constraints, pip.index_options),
        pip.python_version or None,
    )


def _requirements(
    lines: Iterable[str], constraints: Iterable[str], index_options: Iterable[str]
) -> Requirements:
    """What pip has to install; the reverse of `run_spec.environment_message`."""
    return Requirements(
        lines=tuple(lines),
        constraints=tuple(constraints),
        index_options=tuple(option.replace("=", " ", 1) for option in index_options),
    )
