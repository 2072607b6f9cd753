"""The lock of a container environment: which image it is, whatever its name means later.

A lock is lines of "key: value", the first of which names the format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runyard_agent.environments.protocol import EnvironmentFailed

HEADER = "# runyard container 1"
_PIP = "# pip packages on top\n"
_CONDA = "# conda packages on top, for "
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, slots=True)
class Pin:
    """An image that a reference stood for when it was resolved.

    Args:
        reference: as it was asked for, such as "python:3.12".
        image: its id.
        digest: by which a registry gives just this image, "python@sha256:…". Empty: it comes from
            none.
    """

    reference: str
    image: str
    digest: str

    @property
    def exact(self) -> str:
        """What names this image and no other."""
        return self.digest or self.image


@dataclass(frozen=True, slots=True)
class ContainerLock:
    """What a container environment was resolved to.

    Args:
        bases: the images that it is made of; of one without a Dockerfile just one.
        dockerfile: digest of the Dockerfile's text, hexadecimal. Empty: there is none.
        pip: the lock of the pip packages on top. None: there are none.
        conda: platform and lock of the conda packages on top. None: there are none.
    """

    bases: tuple[Pin, ...]
    dockerfile: str = ""
    pip: str | None = None
    conda: tuple[str, str] | None = None

    @property
    def below(self) -> ContainerLock:
        """The same without packages on top."""
        return ContainerLock(self.bases, self.dockerfile)

    @property
    def is_layered(self) -> bool:
        """Whether there are packages on top."""
        return self.pip is not None or self.conda is not None


def node_platform() -> str:
    """The platform that locks are for, in Docker's words: "linux/amd64"."""
    machine = os.uname().machine
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def pin_of(reference: str, found: Mapping[str, Any]) -> Pin:
    """What pins an image: of its digests that of the repository that was asked for."""
    digests = [str(one) for one in found.get("RepoDigests") or () if "@" in str(one)]
    repository = repository_of(reference)
    mine = [one for one in digests if one.partition("@")[0] == repository]
    return Pin(reference, str(found["Id"]), (mine or digests or [""])[0])


def comes_again(reference: str, found: Mapping[str, Any]) -> bool:
    """Whether a registry may give another image for a reference by now."""
    repository = repository_of(reference)
    digests = [str(one) for one in found.get("RepoDigests") or ()]
    return "@" not in reference and any(one.startswith(f"{repository}@") for one in digests)


def repository_of(reference: str) -> str:
    """A reference without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{tail.partition(':')[0]}"


def write_lock(lock: ContainerLock) -> str:
    """The text of a lock."""
    lines = [HEADER]
    if lock.dockerfile:
        lines.append(f"dockerfile: {lock.dockerfile}")
    for pin in lock.bases:
        lines += [f"base: {pin.reference}", f"id: {pin.image}"]
        if pin.digest:
            lines.append(f"digest: {pin.digest}")
    text = "\n".join(lines) + "\n"
    if lock.conda is not None:
        return f"{text}{_CONDA}{lock.conda[0]}\n{lock.conda[1]}"
    return text if lock.pip is None else f"{text}{_PIP}{lock.pip}"


def read_lock(text: str) -> ContainerLock:
    """What a lock says. Raises EnvironmentFailed for a text that is none."""
    head, has_conda, conda = text.partition(_CONDA)
    head, has_pip, pip = head.partition(_PIP)
    header, *lines = head.splitlines() or [""]
    bases: list[dict[str, str]] = []
    dockerfile = ""
    is_lock = header == HEADER
    for line in lines:
        key, _, value = line.partition(": ")
        if key == "dockerfile":
            dockerfile = value
        elif key == "base":
            bases.append({key: value})
        elif key in ("id", "digest") and bases:
            bases[-1][key] = value
        else:
            is_lock = False
    if not is_lock or any("id" not in base for base in bases):
        raise EnvironmentFailed(
            "the lock that is kept for this environment is not one of a container",
            "update runyard on this node, or change the environment, so that it is resolved again",
        )
    pins = (Pin(base["base"], base["id"], base.get("digest", "")) for base in bases)
    platform, _, packages = conda.partition("\n")
    return ContainerLock(
        tuple(pins),
        dockerfile,
        pip if has_pip else None,
        (platform, packages) if has_conda else None,
    )
