"""The packages of an environment as conda YAML, which conda and runyard itself make it of again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from runyard_contract.environment_spec import match_spec_name

if TYPE_CHECKING:
    from runyardpb.v1.environments_pb2 import (
        CondaPackages,
        DockerImage,
        EnvironmentSpec,
        PipPackages,
    )

DEFAULT_NAME = "project_environment"
"""What Azure ML v1 calls an environment without a name."""
DEFAULT_CHANNEL = "conda-forge"
# What YAML reads as just this text, whatever stands around it.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.=<>!~,/-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def conda_specification(spec: EnvironmentSpec, name: str = "", python_version: str = "") -> str:
    """The YAML for an environment's packages; empty where there are none to install.

    Args:
        name: of the environment. Empty: Azure ML v1's.
        python_version: what it was resolved for, where the specification leaves that open.

    Constraints of pip, which such a file can't hold, are in comments, as is the image that the
    packages are put on.
    """
    is_on_image = spec.WhichOneof("backend") == "docker"
    owner: DockerImage | EnvironmentSpec = spec.docker if is_on_image else spec
    if owner.HasField("conda"):
        packages = _conda(owner.conda, python_version)
    elif owner.HasField("pip"):
        packages = _of_pip(owner.pip, python_version)
    else:
        return ""
    lines = []
    if is_on_image:
        image = spec.docker.image
        lines.append(f"# on top of {f'the image {image}' if image else 'a Dockerfile'}")
    lines.append(f"name: {_scalar(name or DEFAULT_NAME)}")
    lines += packages
    if spec.variables:
        lines.append("variables:")
        lines += (
            f"  {json.dumps(os.fsdecode(one.name))}: {json.dumps(os.fsdecode(one.value))}"
            for one in spec.variables
        )
    return "\n".join(lines) + "\n"


def _conda(conda: CondaPackages, python_version: str) -> Iterator[str]:
    yield "channels:"
    yield from _listed(conda.channels)
    yield "dependencies:"
    names = {match_spec_name(one) for one in conda.packages}
    if "python" not in names:
        yield from _python(conda.python_version or python_version)
    yield from _listed(conda.packages)
    yield from _pip_section(
        conda.pip_requirements,
        conda.pip_constraints,
        conda.pip_index_options,
        has_pip="pip" in names,
    )


def _of_pip(pip: PipPackages, python_version: str) -> Iterator[str]:
    yield "channels:"
    yield from _listed([DEFAULT_CHANNEL])
    yield "dependencies:"
    yield from _python(pip.python_version or python_version)
    yield from _pip_section(pip.requirements, pip.constraints, pip.index_options, has_pip=False)


def _python(version: str) -> Iterator[str]:
    yield from _listed([f"python={version}" if version else "python"])


def _pip_section(
    requirements: Sequence[str],
    constraints: Sequence[str],
    index_options: Sequence[str],
    *,
    has_pip: bool,
) -> Iterator[str]:
    if not requirements:
        return
    if not has_pip:
        yield from _listed(["pip"])
    yield "  - pip:"
    options = (one.replace("=", " ", 1) for one in index_options)
    yield from (f"  {line}" for line in _listed([*options, *requirements]))
    yield from (f"      # constraint: {one}" for one in constraints)


def _listed(values: Sequence[str]) -> Iterator[str]:
    return (f"  - {_scalar(one)}" for one in values)


def _scalar(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)
