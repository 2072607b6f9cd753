"""The container image of an environment, in Azure ML's words and in the form that is sent."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from runyard.schema import seldom
from runyard_contract.errors import SpecInvalid

DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/base:intelmpi2018.3-ubuntu16.04"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/base-gpu:intelmpi2018.3-cuda9.0-cudnn7-ubuntu16.04"
ALL_GPUS = "--gpus=all"
_PLATFORM = {"architecture": "amd64", "os": "Linux"}  # what Azure ML writes into each file


@dataclass(frozen=True, slots=True)
class DockerSpecification:
    """A container image in the form that is sent with a run.

    image: its name; else `dockerfile` is the text that it is built of.
    shm_bytes: size of /dev/shm; 0 is the engine's default. network: of the engine; empty is its
    default. arguments: options of `docker run`.
    """

    image: str = ""
    dockerfile: str = ""
    shm_bytes: int = 0
    network: str = ""
    arguments: tuple[str, ...] = ()


@dataclass(slots=True)
class ContainerRegistry:
    """Where a Docker image comes from. Credentials belong to the node: `docker login` there."""

    address: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    registry_identity: Any = field(default=None, metadata=seldom())


@dataclass(slots=True)
class DockerSection:
    """The container that jobs run in, where it is `enabled`.

    base_image: its name, or base_dockerfile: the path or the text of a Dockerfile, built with the
    snapshot as its context. shm_size: such as "2g". arguments: options of `docker run`, such as
    "--ipc=host" or "--volume=/data:/data:ro". gpu_support: gives it all GPUs of the node.
    `shared_volumes` means nothing here: outputs always reach the run's record.
    """

    enabled: bool = False
    base_image: str | None = DEFAULT_CPU_IMAGE
    base_dockerfile: str | None = field(default=None, metadata=seldom())
    shared_volumes: bool = True
    gpu_support: bool = False
    shm_size: str | None = "1g"
    arguments: list[str] = field(default_factory=list)
    base_image_registry: ContainerRegistry = field(default_factory=ContainerRegistry)
    platform: Any = field(default=None, metadata=seldom())
    build_context: Any = field(default=None, metadata=seldom())

    def unserved(self) -> list[tuple[str, str]]:
        """(key, why) of each setting that is not served."""
        found = []
        if not self.base_dockerfile and self.base_image in (DEFAULT_CPU_IMAGE, DEFAULT_GPU_IMAGE):
            found.append(
                ("docker.baseImage", "Azure ML's own image of 2019 has no registry any more")
            )
        if self.platform not in (None, _PLATFORM):
            found.append(("docker.platform", "an image is taken for the platform of the node"))
        if self.build_context:
            found.append(
                (
                    "docker.buildContext",
                    "the run's snapshot is the context: set docker.base_dockerfile, and put what"
                    " it copies into the source directory",
                )
            )
        registry = self.base_image_registry
        if registry.username or registry.password or registry.registry_identity:
            found.append(
                (
                    "docker.baseImageRegistry",
                    "credentials stay on the node: run `docker login` there as the agent's user",
                )
            )
        return found

    def to_specification(self) -> DockerSpecification:
        """What is sent with a run. Raises `SpecInvalid` for what no engine could be asked for."""
        from runyard_contract.docker_arguments import (
            DockerArgumentInvalid,
            parse_docker_arguments,
            size_bytes,
        )

        try:
            options = parse_docker_arguments(self.arguments)
        except DockerArgumentInvalid as invalid:
            raise _invalid("an option for docker run", invalid.message) from None
        try:
            shm_bytes = size_bytes(self.shm_size) if self.shm_size else 0
        except ValueError as error:
            raise _invalid("shm_size", f"{self.shm_size!r} is {error}") from None
        extra = (ALL_GPUS,) if self.gpu_support and ALL_GPUS not in self.arguments else ()
        return DockerSpecification(
            image="" if self.base_dockerfile else self._image(),
            dockerfile=self.dockerfile_text(),
            shm_bytes=int(options.host.get("ShmSize", shm_bytes)),
            network=str(options.host.get("NetworkMode", "")),
            arguments=(*self.arguments, *extra),
        )

    def _image(self) -> str:
        """The image, in the registry that is named."""
        from runyard_contract.docker_image import image_fault

        address = (self.base_image_registry.address or "").removeprefix("https://").rstrip("/")
        image = self.base_image or ""
        named = f"{address}/{image}" if address and not image.startswith(f"{address}/") else image
        if fault := image_fault(named):
            raise _invalid("the Docker image", fault)
        return named

    def dockerfile_text(self) -> str:
        """The text of the Dockerfile, which may be given by its path; empty where there is none.

        Raises `SpecInvalid` for a file that can't be read, and a text that is no Dockerfile.
        """
        from runyard_contract.docker_image import dockerfile_fault

        given = text = self.base_dockerfile or ""
        if not given:
            return ""
        if "\n" not in given and not given.upper().startswith("FROM "):
            try:
                with open(given, encoding="utf-8") as file:
                    text = file.read()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise SpecInvalid(
                    f"the Dockerfile {os.path.abspath(given)} can't be read: {why}",
                    hint="give the path of a Dockerfile, or its text",
                    path=given,
                ) from None
        if fault := dockerfile_fault(text):
            raise _invalid("the Dockerfile", fault)
        return text


def _invalid(what: str, why: str) -> SpecInvalid:
    return SpecInvalid(f"{what} can't be used: {why}", hint="correct it in the docker section")
