"""Conda dependencies: the packages of a system-managed environment, in conda's YAML form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from runyard.conda_file import CondaFile, read_conda
from runyard.conda_methods import SeldomMethods
from runyard.package_names import pip_name, split_conda
from runyard.requirements import Place, Requirements, parse_requirements, read_requirements
from runyard.yaml_document import Node, YamlDocument, read_yaml
from runyard_contract.environment_spec import (
    channel_fault,
    is_python_version,
    match_spec_fault,
)
from runyard_contract.errors import SpecInvalid, Unsupported

DEFAULT_NAME = "project_environment"
DEFAULT_FILE = "conda_dependencies.yml"
DEFAULT_CHANNEL = "conda-forge"
"""Where conda packages come from when no channel is named."""

# What Azure ML wrote into every file by itself: nobody asked for these.
_FILLED_PYTHON = "3.6.2"
_FILLED_PIP = "azureml-defaults"

_HANDLED = ("python", "pip")  # conda packages that a pip-only environment has by itself
_PYTHON = re.compile(r"python(?:\s*[=\s]=?\s*(?P<version>[0-9.]+?)(?:\.\*)?)?")
_RANGE = re.compile(r"[<>!~,|*]")
_NO_DEFAULTS = "nodefaults"  # conda's word for: only the channels that are named here


class CondaDependencies(SeldomMethods):
    """Python version, pip packages and conda packages, as in a conda `environment.yml`.

    Args:
        conda_dependencies_file_path: a YAML file to start from.

    With python and pip packages alone an environment is built from a package index; with any other
    conda package it is built from conda channels, Python included. Raises `SpecInvalid` with file
    and line for a file that is not of that form.
    """

    def __init__(self, conda_dependencies_file_path: str | os.PathLike[str] | None = None) -> None:
        self._name = DEFAULT_NAME
        self._channels: list[str] = []
        self._conda: list[str] = []
        self._pip: list[tuple[Place, str]] = []
        self._constraints: list[tuple[Place, str]] = []
        self._variables: dict[str, str] = {}
        self._folder = Path()
        if conda_dependencies_file_path is not None:
            path = Path(conda_dependencies_file_path)
            document = read_yaml(path)
            self._folder = path.parent
            self._take(read_conda(document.root, document.source))

    @classmethod
    def create(
        cls,
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> Self:
        """Makes dependencies from lists of packages.

        `python_version` is a version such as "3.11"; None takes the caller's. `pin_sdk_version`
        means nothing here and is accepted for the sake of older scripts.
        """
        made = cls()
        if pip_indexurl:
            made.set_pip_index_url(pip_indexurl)
        if python_version:
            made.set_python_version(python_version)
        for package in conda_packages or ():
            made.add_conda_package(package)
        for package in pip_packages or ():
            made.add_pip_package(package)
        return made

    @classmethod
    def from_requirements_file(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the pip packages of a requirements.txt, with the files it includes.

        Raises `SpecInvalid` or `Unsupported` with file and line.
        """
        found = read_requirements(Path(path))
        made = cls()
        constraints = [f"--constraint {file}" for file in found.constraint_files]
        for line in (*found.index_options, *constraints, *found.lines):
            made._pip.append((made._place(), line))
        return made

    @classmethod
    def from_requirements(
        cls,
        found: Requirements,
        python_version: str | None = None,
        conda_packages: Iterable[str] = (),
        conda_channels: Iterable[str] = (),
    ) -> Self:
        """Makes dependencies of requirements that are no longer in files."""
        made = cls()
        made._channels, made._conda = list(conda_channels), list(conda_packages)
        if python_version:
            made.set_python_version(python_version)
        for line in (*found.index_options, *found.lines):
            made._pip.append((made._place(), line))
        made._constraints = [
            (Place("constraints", number), line)
            for number, line in enumerate(found.constraints, start=1)
        ]
        return made

    @classmethod
    def from_file_content(cls, found: CondaFile) -> Self:
        """Makes dependencies of what a conda YAML file was read to say."""
        made = cls()
        made._take(found)
        return made

    @classmethod
    def from_node(cls, node: Node, source: str) -> Self:
        """Reads dependencies that stand inside another YAML file."""
        made = cls()
        made._folder = Path(source).parent
        made._take(read_conda(node, source))
        return made

    @property
    def conda_channels(self) -> list[str]:
        """The conda channels, in order."""
        return list(self._channels)

    @property
    def conda_packages(self) -> list[str]:
        """The conda packages as they were added, python among them."""
        return list(self._conda)

    @property
    def pip_packages(self) -> list[str]:
        """The pip packages, without options."""
        return [line for _, line in self._pip if not line.startswith("-")]

    @property
    def pip_options(self) -> list[str]:
        """The pip options, such as `--extra-index-url https://…`."""
        return [line for _, line in self._pip if line.startswith("-")]

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that the file sets."""
        return dict(self._variables)

    @property
    def python_version(self) -> str | None:
        """The Python asked for, such as "3.11", or None. Azure ML's 3.6.2 is no wish."""
        for package in self._conda:
            name, version = split_conda(package)
            if name == "python":
                return None if version == _FILLED_PYTHON else version
        return None

    @property
    def has_packages(self) -> bool:
        """Whether anything is asked for beyond what Azure ML filled in by itself."""
        return bool(self._other_conda() or self._wanted_pip() or self.python_version)

    def set_python_version(self, version: str) -> None:
        """Asks for a Python version such as "3.11"."""
        self.remove_conda_package("python")
        self._conda.insert(0, f"python={version}")

    def get_python_version(self) -> str | None:
        """The Python asked for; the same as `python_version`."""
        return self.python_version

    def add_channel(self, channel: str) -> None:
        """Adds a conda channel."""
        if channel not in self._channels:
            self._channels.append(channel)

    def remove_channel(self, channel: str) -> None:
        """Removes a conda channel."""
        self._channels = [one for one in self._channels if one != channel]

    def add_conda_package(self, conda_package: str) -> None:
        """Adds a conda package; one of the same name is replaced."""
        self.remove_conda_package(conda_package)
        self._conda.append(conda_package)

    def remove_conda_package(self, conda_package: str) -> None:
        """Removes the conda package of that name, whatever its version."""
        name = split_conda(conda_package)[0]
        self._conda = [one for one in self._conda if split_conda(one)[0] != name]

    def add_pip_package(self, pip_package: str) -> None:
        """Adds a pip requirement such as "torch>=2"; one of the same name is replaced.

        Raises `SpecInvalid` for an editable one, which is on this machine only.
        """
        line = pip_package.strip()
        if line.startswith(("-e", "--editable")):
            parse_requirements([(self._place(), line)], self._folder)
        self.remove_pip_package(line)
        self._pip.append((self._place(), line))

    def remove_pip_package(self, pip_package: str) -> None:
        """Removes the pip requirement of that name, whatever its version."""
        name = pip_name(pip_package)
        self._pip = [
            (place, line)
            for place, line in self._pip
            if line.startswith("-") or pip_name(line) != name
        ]

    def set_pip_index_url(self, index_url: str) -> None:
        """Sets the package index that pip packages come from."""
        url = index_url.removeprefix("--index-url").strip()
        self.remove_pip_option("--index-url")
        self.set_pip_option(f"--index-url {url}")

    def set_pip_option(self, pip_option: str) -> None:
        """Adds a pip option: `--index-url URL`, `--extra-index-url URL`, `--find-links URL`,
        `--pre` or `--no-index`.

        Raises `SpecInvalid` for what is no option; one that is not served is refused at submit.
        """
        line = pip_option.strip()
        if not line.startswith("-"):
            raise SpecInvalid(
                f"{line[:100]!r} is no option of pip",
                hint="write it as pip does, such as --extra-index-url https://…; packages are"
                " added with add_pip_package",
                option=line[:100],
            )
        self._pip.append((self._place(), line))

    def remove_pip_option(self, pip_option: str) -> None:
        """Removes the pip options of that name."""
        name = re.split(r"[=\s]", pip_option.strip())[0]
        self._pip = [
            (place, line) for place, line in self._pip if re.split(r"[=\s]", line)[0] != name
        ]

    def self_contained(self) -> Self:
        """The same dependencies without a reference to a file or folder beside their own file:
        what these say stands in them. Raises `SpecInvalid` as `to_requirements`."""
        if any(
            line.startswith(("-r", "-c", "--requirement", "--constraint"))
            for _, line in self._pip + self._constraints
        ):
            made = self.from_requirements(self.to_requirements(), None, self._conda)
        else:
            made = self.from_requirements(Requirements(), None, self._conda)
            made._pip, made._constraints = list(self._pip), list(self._constraints)
        made._channels = [
            one if one == _NO_DEFAULTS else self._channel(one) for one in self._channels
        ]
        made._name, made._variables = self._name, dict(self._variables)
        return made

    @property
    def needs_conda(self) -> bool:
        """Whether there are conda packages other than python and pip."""
        return bool(self._other_conda())

    def check_served(self, source: str = "the environment") -> None:
        """Raises `Unsupported` for a Python that can't be had, and `SpecInvalid` for a package or
        channel of conda that is none, by name.

        Without conda packages one version of Python 3 can be had, with them a range as well.
        """
        version = self.python_version
        if version and not is_python_version(version):
            if not (self.needs_conda and _RANGE.search(version)):
                raise Unsupported(
                    f"{source} asks for Python {version[:100]}; only one version of Python 3 is"
                    " served",
                    hint="name one version, such as python=3.11",
                    python_version=version[:100],
                )
        if not self.needs_conda:
            return
        for what, key, values, fault_of in (
            ("package", "dependencies", self._conda, match_spec_fault),
            ("channel", "channels", self.wanted_channels(), channel_fault),
        ):
            for value in values:
                if fault := fault_of(value):
                    raise SpecInvalid(
                        f"{source} has a conda {what} that can't be used: {fault}",
                        hint=f"correct it under {key}:",
                    )

    def wanted_channels(self) -> list[str]:
        """The channels to look in, first one first. Folders are `file://` URLs; a relative one is
        beside the YAML file."""
        named = [self._channel(one) for one in self._channels if one != _NO_DEFAULTS]
        return named or [DEFAULT_CHANNEL]

    def wanted_conda(self) -> tuple[str | None, list[str]]:
        """(Python version, match specs): what to install from conda channels.

        A Python that is more than one version, such as a range or a build, is a match spec; one
        that nobody asked for is left out.
        """
        version: str | None = None
        specs = []
        for package in self._conda:
            plain = _PYTHON.fullmatch(package.strip())
            if plain is None:
                specs.append(package.strip())
            elif plain["version"] != _FILLED_PYTHON:
                version = plain["version"]
        return version, specs

    def to_requirements(self) -> Requirements:
        """What pip has to install, included files read. Raises as `requirements` does."""
        return parse_requirements(self._wanted_pip(), self._folder, self._constraints)

    def to_plain(self) -> Any:
        """The content of the YAML file; None where there is nothing."""
        kept = (self._conda, self._pip, self._channels, self._constraints, self._variables)
        if not any(kept):
            return None
        dependencies: list[Any] = list(self._conda)
        if self._pip:
            dependencies.append({"pip": [line for _, line in self._pip]})
        found: dict[str, Any] = {"name": self._name, "dependencies": dependencies}
        if self._channels:
            found["channels"] = list(self._channels)
        if self._constraints:
            found["constraints"] = [line for _, line in self._constraints]
        if self._variables:
            found["variables"] = dict(self._variables)
        return found

    def serialize_to_string(self) -> str:
        """The dependencies as conda's YAML."""
        document = YamlDocument("conda dependencies")
        document.update(self.as_dict(), {})
        return document.dump()

    def as_dict(self) -> dict[str, Any]:
        """The content of the YAML file as lists and dicts."""
        return dict(self.to_plain() or {"name": self._name, "dependencies": []})

    def save(self, path: str | os.PathLike[str] = DEFAULT_FILE) -> str:
        """Writes the YAML file and gives back its path."""
        Path(path).write_text(self.serialize_to_string(), encoding="utf-8")
        return os.fspath(path)

    def save_to_file(
        self, base_directory: str | os.PathLike[str], conda_file_path: str | None = None
    ) -> str:
        """Writes the file below a folder; gives back its path relative to the folder."""
        relative = conda_file_path or DEFAULT_FILE
        self.save(Path(base_directory) / relative)
        return relative

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CondaDependencies):
            return NotImplemented
        return bool(self.to_plain() == other.to_plain())

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"CondaDependencies(conda={self._conda!r}, pip={len(self._pip)} lines)"

    def _channel(self, channel: str) -> str:
        if not channel.startswith((".", "/", "~")):
            return channel
        return (self._folder / Path(channel).expanduser()).resolve().as_uri()

    def _place(self) -> Place:
        return Place("pip packages", len(self._pip) + 1)

    def _other_conda(self) -> list[str]:
        return [one for one in self._conda if split_conda(one)[0] not in _HANDLED]

    def _wanted_pip(self) -> list[tuple[Place, str]]:
        return [(place, line) for place, line in self._pip if pip_name(line) != _FILLED_PIP]

    def _take(self, found: CondaFile) -> None:
        """Takes over what a file says."""
        self._name = found.name or self._name
        self._channels = found.channels
        self._conda = found.conda
        self._pip = found.pip
        self._constraints = found.constraints
        self._variables = found.variables
