"""Stored environments by name, or by name and version as in "iris:2"."""

from __future__ import annotations

from runyard_contract.errors import NameInvalid
from runyard_contract.ids import check_environment_name

_VERSIONS = 1 << 31


def name_and_version(text: str) -> tuple[str, int | None]:
    """An environment's name and version in "iris:2"; None for the newest. Raises NameInvalid."""
    name, separator, version = text.partition(":")
    if separator and not (version.isdecimal() and 0 < int(version[:20]) < _VERSIONS):
        raise NameInvalid(
            f"{text[:100]!a} has no number of a version behind the colon",
            hint="use NAME for the newest version, or NAME:VERSION, such as iris:2",
            name=text[:100],
        )
    return check_environment_name(name), int(version) if separator else None


def specified_name(workspace: str, text: str) -> str:
    """How a run's specification names "iris" or "iris:2" of its workspace. Raises NameInvalid."""
    name, version = name_and_version(text)
    if version is None:
        return name
    return f"workspaces/{workspace}/environments/{name}/versions/{version}"
