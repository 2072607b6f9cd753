"""What differs between two locks of an environment: packages by name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PIP = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*(?:==\s*(?P<version>[^\s;\\]+)|@\s*(?P<url>\S+))"
)
_HASH = re.compile(r"--hash=(\S+)")
_CONDA = re.compile(
    r"\S+/(?P<name>[^/\s#]+)-(?P<version>[^-/\s#]+-[^-/\s#]+?)(?:\.conda|\.tar\.bz2)(?:#(?P<files>\S+))?"
)
_IMAGE = re.compile(r"(?P<key>base|id|digest|dockerfile): (?P<value>.*)")


@dataclass(frozen=True, slots=True)
class Locked:
    """A package as a lock has it: its version (of conda with the build), and hashes of its files.

    Of a container image that a lock is based on the digest, or the id, is the version.
    """

    version: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A package of two locks: None where one does not have it.

    Equal versions: its files are others.
    """

    name: str
    before: str | None
    after: str | None


def locked_packages(text: str) -> dict[str, Locked]:
    """The packages of a lock by name: of pip, of conda, or of a container with both."""
    found: dict[str, Locked] = {}
    name = image = ""
    for line in text.splitlines():
        content = line.removeprefix("# pip ")
        if line.startswith("#") and content == line:
            continue
        if of_image := _IMAGE.fullmatch(line):
            key, value = of_image["key"], of_image["value"]
            image = f"image {value}" if key == "base" else image
            if key == "dockerfile":
                found["Dockerfile"] = Locked(value)
            elif key != "base" and image:
                found[image] = Locked(value)  # the digest comes after the id
        elif of_conda := _CONDA.fullmatch(content):
            found[of_conda["name"]] = Locked(of_conda["version"], (of_conda["files"] or "",))
        elif of_pip := _PIP.match(content):
            name = of_pip["name"]
            found[name] = Locked(of_pip["version"] or of_pip["url"], _hashes(content))
        elif name and (more := _hashes(content)):
            found[name] = Locked(found[name].version, (*found[name].files, *more))
    return found


def lock_difference(before: str, after: str) -> list[Change]:
    """What differs between the texts of two locks, by name; empty: they have the same packages."""
    old, new = locked_packages(before), locked_packages(after)
    return [
        Change(
            name,
            old[name].version if name in old else None,
            new[name].version if name in new else None,
        )
        for name in sorted(old.keys() | new.keys(), key=str.casefold)
        if old.get(name) != new.get(name)
    ]


def _hashes(line: str) -> tuple[str, ...]:
    return tuple(sorted(_HASH.findall(line)))
