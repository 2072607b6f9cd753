"""Locks of conda environments: an explicit list that conda and micromamba install as well.

    # runyard: conda packages, format 1
    # needs __glibc >=2.17
    @EXPLICIT
    # about {"depends": ["python"], "name": "six", ...}
    https://x.example/channel/noarch/six-1.16.0-pyh6c4a22f_0.conda#sha256:...
    # pip joblib==1.3.2 --hash=sha256:...

What conda takes for a comment is for runyard: what the node must have, what a package says of
itself beyond its file, and the pip packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runyard_agent.environments import lock
from runyard_agent.environments.protocol import EnvironmentFailed

_HEADER = "# runyard: conda packages, format 1"
_MARK = "@EXPLICIT"
_ABOUT, _NEEDS, _PIP = "# about ", "# needs ", "# pip "
# What is kept of a package's record: what every program tells of it, and in the same words.
_KEPT = ("build", "build_number", "constrains", "depends", "name", "noarch", "subdir", "version")
_KEPT_WHERE_TOLD = ("python_site_packages_path", "track_features")
_HASH_LINE, _HASH_WORD = " \\\n    --hash=", " --hash="


@dataclass(frozen=True, slots=True)
class CondaPackage:
    """One package: where its file is, the file's hash, and its record without both.

    `digest` is "sha256:…", of old channels the MD5 alone, empty where the channel tells none.
    """

    url: str
    digest: str
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Such as "numpy"."""
        return str(self.about["name"])

    @property
    def release(self) -> str:
        """Name, version and build, as conda lists them."""
        return f"{self.name} {self.about['version']} {self.about['build']}"


@dataclass(frozen=True, slots=True)
class CondaLock:
    """What an environment was resolved to.

    packages: those of conda, what others depend on first.
    needs: match specs of virtual packages, which the node has by its hardware and system.
    pip: uv's lock of the pip packages; empty without any.
    """

    packages: tuple[CondaPackage, ...]
    needs: tuple[str, ...]
    pip: str = ""

    @property
    def python(self) -> str:
        """Version of its Python, empty without one."""
        found = (one.about["version"] for one in self.packages if one.name == "python")
        return str(next(found, ""))

    @property
    def pip_count(self) -> int:
        """Number of its pip packages."""
        return lock.packages(self.pip)


def solved(packages: Iterable[CondaPackage]) -> CondaLock:
    """The lock of a solution: one text for one set of packages, whichever program found it."""
    by_name = {one.name: one for one in map(_canonical, packages)}
    needs = {need for one in by_name.values() for need in one.about["depends"] if need[:2] == "__"}
    return CondaLock(tuple(_dependencies_first(by_name)), tuple(sorted(needs)))


def _canonical(package: CondaPackage) -> CondaPackage:
    """A package without what only some programs tell, and nothing in the order of one of them."""
    kept = {name: package.about.get(name) for name in (*_KEPT, *_KEPT_WHERE_TOLD)}
    about = {name: value for name, value in kept.items() if value not in (None, "", [], ())}
    about["depends"] = sorted(kept["depends"] or ())
    if kept["constrains"]:
        about["constrains"] = sorted(kept["constrains"])
    about["build_number"] = kept["build_number"] or 0
    return CondaPackage(package.url, package.digest, about)


def _dependencies_first(by_name: Mapping[str, CondaPackage]) -> Iterator[CondaPackage]:
    """Packages in an order to install them in. Python comes before its pip, which needs it."""
    seen: set[str] = set()
    for root in sorted(by_name):
        stack = [(root, False)]
        while stack:
            name, has_all = stack.pop()
            if has_all:
                yield by_name[name]
            elif name in by_name and name not in seen:
                seen.add(name)
                needed = {spec.split()[0] for spec in by_name[name].about["depends"]}
                needed -= {"pip"} if name == "python" else set()
                stack.append((name, True))
                stack += [(one, False) for one in sorted(needed, reverse=True)]


def write_lock(found: CondaLock) -> str:
    """The text of a lock; the same for the same packages."""
    lines = [_HEADER, *(_NEEDS + need for need in found.needs), _MARK]
    for package in found.packages:
        lines.append(_ABOUT + json.dumps(package.about, sort_keys=True))
        lines.append(f"{package.url}#{package.digest}" if package.digest else package.url)
    pip = found.pip.replace(_HASH_LINE, _HASH_WORD).splitlines()
    lines += [_PIP + line for line in pip if line and not line.startswith("#")]
    return "\n".join(lines) + "\n"


def read_lock(text: str) -> CondaLock:
    """The lock of a text. Raises EnvironmentFailed for one that this version does not know."""
    header, *lines = text.splitlines()
    if header != _HEADER:
        raise EnvironmentFailed(
            "the lock that is kept for this environment was written by another version of runyard",
            "change the environment's packages, so that it is resolved again",
        )
    needs, pip, packages = [], [], []
    about: Mapping[str, Any] = {}
    for line in lines:
        if line.startswith(_ABOUT):
            about = json.loads(line.removeprefix(_ABOUT))
        elif line.startswith(_NEEDS):
            needs.append(line.removeprefix(_NEEDS))
        elif line.startswith(_PIP):
            pip.append(line.removeprefix(_PIP).replace(_HASH_WORD, _HASH_LINE) + "\n")
        elif line != _MARK:
            url, _, digest = line.partition("#")
            packages.append(CondaPackage(url, digest, about))
    return CondaLock(tuple(packages), tuple(needs), "".join(pip))
