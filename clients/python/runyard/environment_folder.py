"""An environment as a folder of files to edit: Azure ML's `azureml_environment.json`, its packages
beside it in conda's YAML, and its Dockerfile."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runyard.conda_dependencies import CondaDependencies
from runyard.schema import plain_section, read_section
from runyard.yaml_document import Node, Table, Text, YamlDocument, read_text
from runyard_contract.errors import SpecInvalid, Unsupported

if TYPE_CHECKING:
    from runyard.environment import Environment

E = TypeVar("E", bound="Environment")

SETTINGS = "azureml_environment.json"
PACKAGES = "conda_dependencies.yml"
DOCKERFILE = "BaseDockerfile"
_SETTINGS_BYTES = 4 << 20
_DOCKERFILE_BYTES = 1 << 20
_NULLABLE = (("base_image", "baseImage"), ("shm_size", "shmSize"))
_SURROGATES = re.compile(
    r"(?<!\\)(?P<before>(?:\\\\)*)\\u(?P<high>d[89ab]\w\w)\\u(?P<low>d[c-f]\w\w)",
    re.IGNORECASE | re.ASCII,
)


def save_environment(
    environment: Environment, path: str | os.PathLike[str], *, is_overwriting: bool
) -> list[str]:
    """Writes the files of an environment and gives back their paths.

    A folder that has something in it is refused, but with `is_overwriting`, which replaces the
    three files and touches no other.
    """
    from runyard_contract.paths import atomic_write

    folder = Path(path)
    contents = _contents(environment)  # what can't be written is found before anything is
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_overwriting and any(folder.iterdir()):
            raise SpecInvalid(
                f"{folder} is not empty",
                hint="give another folder, or replace its files: overwrite=True, --overwrite",
                folder=str(folder),
            )
        for name in (PACKAGES, DOCKERFILE):
            if name not in contents:
                (folder / name).unlink(missing_ok=True)
        for name, text in contents.items():
            atomic_write(folder / name, text.encode(), mode=0o644)
    except OSError as error:
        raise SpecInvalid(
            f"the environment can't be written to {folder}: {error.strerror}",
            hint="give a folder that you may write to",
            folder=str(folder),
        ) from None
    return [str(folder / name) for name in contents]


def load_environment(kind: type[E], path: str | os.PathLike[str]) -> E:
    """Reads what `save_environment`, or Azure ML's SDK, wrote. Raises SpecInvalid with file and
    line."""
    folder = Path(path)
    if not (folder / SETTINGS).is_file():
        raise SpecInvalid(
            f"{folder} holds no environment: {SETTINGS} is not there",
            hint="write one with `runyard environment download` or save_to_directory",
            folder=str(folder),
        )
    text = _joined_surrogates(read_text(folder / SETTINGS, _SETTINGS_BYTES))
    document = YamlDocument(str(folder / SETTINGS), text)  # JSON is YAML, and so has positions
    found = read_section(kind, document.root, document.source)
    _take_nulls(found, document.root.entries.get("docker"))
    if (folder / PACKAGES).is_file():
        found.python.conda_dependencies = CondaDependencies(folder / PACKAGES)
    if (folder / DOCKERFILE).is_file():
        found.docker.base_dockerfile = read_text(folder / DOCKERFILE, _DOCKERFILE_BYTES)
    return found


def _contents(environment: Environment) -> dict[str, str]:
    """The text of each file by its name."""
    if environment.docker.base_image_registry.password:
        raise Unsupported(
            "docker.base_image_registry.password is not written to a file",
            hint="run `docker login` on the node as the agent's user, and set it to None here",
            key="docker.baseImageRegistry",
        )
    settings: dict[str, Any] = plain_section(environment)
    settings["python"].pop("condaDependencies", None)
    files = {}
    packages = environment.python.conda_dependencies.self_contained()
    if packages.to_plain() is not None:
        files[PACKAGES] = packages.serialize_to_string()
    if environment.docker.base_dockerfile:
        settings["docker"]["baseDockerfile"] = None
        files[DOCKERFILE] = environment.docker.dockerfile_text()
    # In ASCII alone, but for DEL, which YAML has only as an escape.
    text = json.dumps(settings, indent=4, sort_keys=True).replace("\x7f", "\\u007f")
    return {SETTINGS: text + "\n", **files}


def _take_nulls(found: Environment, docker: Node | None) -> None:
    """In JSON a null that is written is meant; elsewhere an empty key has its default."""
    entries = docker.entries if isinstance(docker, Table) else {}
    for attribute, key in _NULLABLE:
        node = entries.get(key)
        if isinstance(node, Text) and node.is_null:
            setattr(found.docker, attribute, None)


def _joined_surrogates(text: str) -> str:
    """JSON's escape of one character by two halves in YAML's form, which has it in one."""

    def joined(match: re.Match[str]) -> str:
        high, low = int(match["high"], 16), int(match["low"], 16)
        return f"{match['before']}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _SURROGATES.sub(joined, text)
