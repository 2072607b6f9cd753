"""Environments: what a script needs to run, and the form in which that is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from runyard.conda_dependencies import CondaDependencies
from runyard.docker_section import DockerSection, DockerSpecification
from runyard.schema import seldom
from runyard_contract.errors import SpecInvalid, Unsupported

DEFAULT_INTERPRETER = "python"


@dataclass(frozen=True, slots=True)
class EnvironmentSpecification:
    """An environment in the form that is sent with a run: nothing in it depends on this machine.

    kind: "user_managed" runs in an interpreter that exists on the target; "pip" builds one from a
        package index, "conda" from conda channels.
    interpreter_path: of a user-managed one; empty means the caller's Python on the local target and
        the node's python3 elsewhere.
    python_version: of a built one, such as "3.11"; None means the caller's with "pip", the newest
        that fits with "conda".
    conda_packages, channels: match specs, and where they are looked for, first one first.
    requirements, constraints: one PEP 508 name or URL a line, included files read, in order.
    index_options: `--index-url URL`, `--extra-index-url URL`, `--find-links URL`, `--pre`,
        `--no-index`; no credentials.
    environment_variables: for the job, over those of the caller.
    docker: the container image that it is in; its packages are put on top, and an interpreter is
        one of the image.
    """

    kind: Literal["user_managed", "pip", "conda"]
    interpreter_path: str = ""
    python_version: str | None = None
    conda_packages: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    index_options: tuple[str, ...] = ()
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    docker: DockerSpecification | None = None


@dataclass(slots=True)
class PythonSection:
    """Python and its packages.

    With `user_managed_dependencies` the interpreter at `interpreter_path` is taken as it is
    ("python", the default, means the caller's); else `conda_dependencies` are installed.
    """

    user_managed_dependencies: bool = False
    interpreter_path: str = DEFAULT_INTERPRETER
    conda_dependencies_file: str | None = None
    base_conda_environment: str | None = None
    conda_dependencies: CondaDependencies = field(
        default_factory=CondaDependencies, metadata=seldom()
    )


@dataclass(slots=True)
class SparkPackage:
    """One Maven package of a Spark job."""

    group: str | None = None
    artifact: str | None = None
    version: str | None = None


def _default_spark_packages() -> list[SparkPackage]:
    return [SparkPackage("com.microsoft.ml.spark", "mmlspark_2.11", "0.12")]


@dataclass(slots=True)
class SparkSection:
    """Spark packages: read and kept, they mean nothing to a Python run."""

    repositories: list[str] = field(
        default_factory=lambda: ["https://mmlspark.azureedge.net/maven"]
    )
    packages: list[SparkPackage] = field(default_factory=_default_spark_packages)
    precache_packages: bool = True


@dataclass(slots=True)
class DatabricksSection:
    """Databricks libraries: read and kept, they mean nothing to a Python run."""

    maven_libraries: list[Any] = field(default_factory=list)
    pypi_libraries: list[Any] = field(default_factory=list)
    rcran_libraries: list[Any] = field(default_factory=list)
    jar_libraries: list[Any] = field(default_factory=list)
    egg_libraries: list[Any] = field(default_factory=list)
    cluster: Any = field(default=None, metadata=seldom())


@dataclass(slots=True)
class Environment:
    """What a script needs: an interpreter or packages, and environment variables.

        Environment.from_pip_requirements("iris", "requirements.txt")

        env = Environment("mine")
        env.python.user_managed_dependencies = True
        env.python.interpreter_path = "/opt/conda/envs/torch/bin/python"

    An environment that asks for nothing counts as unset: the run gets the caller's Python.
    """

    name: str | None = None
    version: str | None = None
    environment_variables: dict[str, str] = field(default_factory=dict)
    python: PythonSection = field(default_factory=PythonSection)
    docker: DockerSection = field(default_factory=DockerSection)
    spark: SparkSection = field(default_factory=SparkSection)
    databricks: DatabricksSection = field(default_factory=DatabricksSection)
    inferencing_stack_version: str | None = field(default=None, metadata=seldom())

    @classmethod
    def from_pip_requirements(cls, name: str, file_path: str | os.PathLike[str]) -> Self:
        """An environment with the packages of a requirements.txt, included files read now.

        Raises `SpecInvalid` or `Unsupported` with file and line.
        """
        made = cls(name)
        made.python.conda_dependencies = CondaDependencies.from_requirements_file(file_path)
        return made

    @classmethod
    def from_conda_specification(cls, name: str, file_path: str | os.PathLike[str]) -> Self:
        """An environment with the packages of a conda YAML file.

        With conda packages other than python and pip it is built from the file's channels
        (conda-forge, if it names none); else from the pip section on the Python version that it
        names. Raises `SpecInvalid` with file and line.
        """
        made = cls(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        made.environment_variables = made.python.conda_dependencies.variables
        return made

    @classmethod
    def from_docker_image(
        cls,
        name: str,
        image: str,
        conda_specification: str | os.PathLike[str] | None = None,
        pip_requirements: str | os.PathLike[str] | None = None,
    ) -> Self:
        """An environment in a container image, such as "python:3.12-slim", as the node's Docker
        engine knows or finds it.

        With a conda YAML file or a requirements.txt their packages are put on top, once; else the
        image is taken as it is. Raises `SpecInvalid` for both at once, and as the readers of files.
        """
        made = cls(name)
        made.docker.base_image = image
        made._put_on_image(conda_specification, pip_requirements)
        return made

    @classmethod
    def from_dockerfile(
        cls,
        name: str,
        dockerfile: str | os.PathLike[str],
        conda_specification: str | os.PathLike[str] | None = None,
        pip_requirements: str | os.PathLike[str] | None = None,
    ) -> Self:
        """An environment in an image that the node builds of a Dockerfile, given by its path or as
        text. The snapshot of the run is the folder that it copies from.

        The rest is as in `from_docker_image`.
        """
        made = cls(name)
        made.docker.base_image = None
        made.docker.base_dockerfile = os.fspath(dockerfile)
        made._put_on_image(conda_specification, pip_requirements)
        return made

    def _put_on_image(
        self,
        conda_specification: str | os.PathLike[str] | None,
        pip_requirements: str | os.PathLike[str] | None,
    ) -> None:
        """Enables the image, with the packages of at most one file."""
        self.docker.enabled = True
        if conda_specification is not None and pip_requirements is not None:
            raise SpecInvalid(
                "conda_specification and pip_requirements can't both be put on one image",
                hint="list the pip packages in the pip section of the conda file",
            )
        if conda_specification is not None:
            self.python.conda_dependencies = CondaDependencies(conda_specification)
            self.environment_variables = self.python.conda_dependencies.variables
        elif pip_requirements is not None:
            packages = CondaDependencies.from_requirements_file(pip_requirements)
            self.python.conda_dependencies = packages
        else:
            self.python.user_managed_dependencies = True

    @property
    def is_unset(self) -> bool:
        """Whether nothing is asked for, so that the run gets the caller's Python."""
        python = self.python
        if self.docker.enabled:
            return False
        return not (python.user_managed_dependencies or python.conda_dependencies.has_packages)

    def unserved(self) -> list[tuple[str, str]]:
        """(key, why) of each setting that would change the run and is not served yet."""
        found = self.docker.unserved() if self.docker.enabled else []
        if self.python.base_conda_environment:
            found.append(
                ("python.baseCondaEnvironment", "an environment is built from packages alone")
            )
        return found

    def to_specification(self) -> EnvironmentSpecification:
        """What is sent with a run.

        Raises `Unsupported`, naming the keys or packages, for what is not served yet, and
        `SpecInvalid` for a bad requirement or environment variable.
        """
        refuse_unserved(self.unserved())
        variables = {
            name: _checked_variable(name, str(value))
            for name, value in self.environment_variables.items()
        }
        docker = self.docker.to_specification() if self.docker.enabled else None
        python = self.python
        packages = python.conda_dependencies
        if python.user_managed_dependencies or not packages.has_packages:
            path = python.interpreter_path if python.user_managed_dependencies else ""
            return EnvironmentSpecification(
                "user_managed",
                "" if path == DEFAULT_INTERPRETER else path,
                environment_variables=variables,
                docker=docker,
            )
        packages.check_served(f'environment "{self.name}"' if self.name else "the environment")
        found = packages.to_requirements()
        version, conda_packages = packages.wanted_conda()
        is_conda = packages.needs_conda
        return EnvironmentSpecification(
            "conda" if is_conda else "pip",
            python_version=version if is_conda else packages.python_version,
            conda_packages=tuple(conda_packages) if is_conda else (),
            channels=tuple(packages.wanted_channels()) if is_conda else (),
            requirements=found.lines,
            constraints=found.constraints,
            index_options=found.index_options,
            environment_variables=variables,
            docker=docker,
        )


def refuse_unserved(found: Iterable[tuple[str, str]], source: str = "") -> None:
    """Raises `Unsupported`, listing every key and its reason, unless there are none.

    `source` is the file that they are from, if they are from one.
    """
    keys = list(found)
    if keys:
        raise Unsupported(
            (f"{source}: " if source else "")
            + "not served yet: "
            + "; ".join(f"{key} ({why})" for key, why in keys),
            hint="take these keys out of the run configuration, or set them back to their defaults",
            keys=", ".join(key for key, _ in keys),
        )


def _checked_variable(name: str, value: str) -> str:
    if not name or "=" in name or "\0" in name or "\0" in value:
        raise SpecInvalid(
            f"environment variable {name[:100]!r} cannot be set: a name is not empty and has no"
            " `=`, and neither name nor value has a NUL",
            variable=name[:100],
        )
    return value
