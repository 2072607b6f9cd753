"""What an environment is asked to be, and the rules that every such wish keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from runyard_contract import limits
from runyard_contract.docker_arguments import DockerArgumentInvalid, parse_docker_arguments
from runyard_contract.docker_image import (
    dockerfile_fault,
    image_fault,
    mount_fault,
    network_fault,
)
from runyard_contract.environment_spec import (
    channel_fault,
    has_credentials,
    is_python_version,
    match_spec_fault,
)
from runyard_contract.record import record

ARGUMENT_BYTES = 131_071
"""Longest single argument or NAME=VALUE that Linux starts a program with."""
VARIABLE_NAME_BYTES = 1024
REQUIREMENTS_MAX = 2000
REQUIREMENT_BYTES = 4096
CHANNELS_MAX = 100
MOUNTS_MAX = 100
DOCKER_ARGUMENTS_MAX = 200
INTERPRETER_CHARACTERS = 4096
BACKENDS = "user_managed, pip, conda or docker"

Violation = tuple[str, str]
"""Path of a field and what is wrong with it."""

Variables = tuple[tuple[bytes, bytes], ...]

_INDEX_OPTION = re.compile(r"--(?:index-url|extra-index-url|find-links)=\S+|--pre|--no-index")


@record
class PipEnvironment:
    """Packages to install with pip semantics."""

    python_version: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    index_options: tuple[str, ...]
    base_interpreter: bytes


@record
class CondaEnvironment:
    """Packages to install from conda channels, and with pip semantics among them."""

    python_version: str
    packages: tuple[str, ...]
    channels: tuple[str, ...]
    pip_requirements: tuple[str, ...]
    pip_constraints: tuple[str, ...]
    pip_index_options: tuple[str, ...]


@record
class DockerEnvironment:
    """A container image, and what is put on top of it."""

    image: str
    dockerfile: str
    packages: PipEnvironment | CondaEnvironment | None
    interpreter: str
    shm_bytes: int
    network: str
    mounts: tuple[tuple[bytes, str], ...]
    """Source on the node and target in the container."""
    arguments: tuple[str, ...]


@record
class UserEnvironment:
    """A Python that exists on the node; an empty path is the node's own."""

    interpreter: bytes


Environment = PipEnvironment | CondaEnvironment | DockerEnvironment | UserEnvironment


def environment_violations(field: str, environment: Environment) -> Iterator[Violation]:
    """What is wrong with an environment's specification."""
    if isinstance(environment, UserEnvironment):
        if b"\0" in environment.interpreter:
            yield f"{field}.user_managed.interpreter_path", "holds a NUL byte"
        return
    if isinstance(environment, DockerEnvironment):
        yield from _docker(f"{field}.docker", environment)
    else:
        yield from _packages(field, environment)


def _packages(field: str, environment: PipEnvironment | CondaEnvironment) -> Iterator[Violation]:
    if isinstance(environment, CondaEnvironment):
        yield from _conda(f"{field}.conda", environment)
    else:
        yield from _pip(f"{field}.pip", environment)


def _docker(field: str, docker: DockerEnvironment) -> Iterator[Violation]:
    if bool(docker.image) == bool(docker.dockerfile):
        yield f"{field}.image", "set exactly one of image and dockerfile"
    elif docker.image and (fault := image_fault(docker.image)):
        yield f"{field}.image", fault
    elif docker.dockerfile and (fault := dockerfile_fault(docker.dockerfile)):
        yield f"{field}.dockerfile", fault
    if docker.packages is not None:
        yield from _packages(field, docker.packages)
    if "\0" in docker.interpreter or len(docker.interpreter) > INTERPRETER_CHARACTERS:
        yield f"{field}.interpreter_path", "holds a NUL character or is too long"
    if not 0 <= docker.shm_bytes <= limits.MEMORY_MAX_BYTES:
        yield f"{field}.shm_bytes", f"is out of range; 0 to {limits.MEMORY_MAX_BYTES}"
    if docker.network and (fault := network_fault(docker.network)):
        yield f"{field}.network", fault
    if len(docker.mounts) > MOUNTS_MAX:
        yield f"{field}.mounts", f"has {len(docker.mounts)} mounts; at most {MOUNTS_MAX}"
    else:
        for index, (source, target) in enumerate(docker.mounts):
            if fault := mount_fault(source, target):
                yield f"{field}.mounts[{index}]", fault
    yield from _docker_arguments(f"{field}.arguments", docker.arguments)


def _docker_arguments(field: str, arguments: Sequence[str]) -> Iterator[Violation]:
    if len(arguments) > DOCKER_ARGUMENTS_MAX:
        yield field, f"has {len(arguments)} options; at most {DOCKER_ARGUMENTS_MAX}"
        return
    if any(len(one) > REQUIREMENT_BYTES or "\0" in one for one in arguments):
        yield field, f"holds a NUL character, or one of over {REQUIREMENT_BYTES} characters"
        return
    try:
        parse_docker_arguments(arguments)
    except DockerArgumentInvalid as invalid:
        yield field, invalid.message


def _pip(field: str, pip: PipEnvironment) -> Iterator[Violation]:
    yield from _python_version(f"{field}.python_version", pip.python_version)
    if b"\0" in pip.base_interpreter:
        yield f"{field}.base_interpreter_path", "holds a NUL byte"
    if not pip.requirements and not pip.python_version:
        yield f"{field}.requirements", "is empty; name at least one package, or python_version"
    yield from _lines(f"{field}.requirements", pip.requirements)
    yield from _lines(f"{field}.constraints", pip.constraints)
    yield from _index_options(f"{field}.index_options", pip.index_options)


def _conda(field: str, conda: CondaEnvironment) -> Iterator[Violation]:
    yield from _python_version(f"{field}.python_version", conda.python_version)
    if not conda.packages and not conda.python_version:
        yield f"{field}.packages", "is empty; name at least one package, or python_version"
    yield from _lines(f"{field}.packages", conda.packages, match_spec_fault)
    if not 1 <= len(conda.channels) <= CHANNELS_MAX:
        yield f"{field}.channels", f"has {len(conda.channels)} channels; 1 to {CHANNELS_MAX}"
    else:
        yield from _lines(f"{field}.channels", conda.channels, channel_fault)
    yield from _lines(f"{field}.pip_requirements", conda.pip_requirements)
    yield from _lines(f"{field}.pip_constraints", conda.pip_constraints)
    yield from _index_options(f"{field}.pip_index_options", conda.pip_index_options)


def _python_version(field: str, version: str) -> Iterator[Violation]:
    if version and not is_python_version(version):
        yield field, f"{version[:40]!a} is no version of Python 3, such as 3.11"


def _index_options(field: str, options: Sequence[str]) -> Iterator[Violation]:
    for index, option in enumerate(options):
        if not _INDEX_OPTION.fullmatch(option):
            yield f"{field}[{index}]", f"{option[:60]!a} is no option that is served"
        elif has_credentials(option):
            yield f"{field}[{index}]", "holds credentials, which would be stored"


def _lines(
    field: str, lines: Sequence[str], fault_of: Callable[[str], str] = lambda line: ""
) -> Iterator[Violation]:
    """What is wrong with lines; `fault_of` judges one that is a line at all."""
    if len(lines) > REQUIREMENTS_MAX:
        yield field, f"has {len(lines)} lines; at most {REQUIREMENTS_MAX}"
        return
    for index, line in enumerate(lines):
        if not line.strip() or not line.isprintable():
            yield f"{field}[{index}]", "is empty or holds a control character"
        elif len(line.encode("utf-8", "replace")) > REQUIREMENT_BYTES:
            yield f"{field}[{index}]", f"is over {REQUIREMENT_BYTES} bytes"
        elif fault := fault_of(line):
            yield f"{field}[{index}]", fault


def variable_violations(field: str, variables: Variables) -> Iterator[Violation]:
    """What is wrong with variables of a job."""
    if len(variables) > limits.ENV_VARS_MAX:
        yield field, f"has {len(variables)} variables; at most {limits.ENV_VARS_MAX}"
        return
    for index, (name, value) in enumerate(variables):
        if not 1 <= len(name) <= VARIABLE_NAME_BYTES or b"=" in name or b"\0" in name:
            yield (
                f"{field}[{index}].name",
                f"must have 1 to {VARIABLE_NAME_BYTES} bytes, without '=' and NUL",
            )
        elif b"\0" in value or len(name) + len(value) + 1 > ARGUMENT_BYTES:
            yield (
                f"{field}[{index}].value",
                f"must have no NUL and, with its name, at most {ARGUMENT_BYTES} bytes",
            )
