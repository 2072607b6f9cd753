"""Environments: what a script needs to run, and the form in which that is sent."""

from __future__ import annotations

import builtins
import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from runyard.conda_dependencies import CondaDependencies
from runyard.docker_section import ContainerRegistry, DockerSection, DockerSpecification
from runyard.environment_refusals import RefusedMethods
from runyard.environment_sections import (
    DEFAULT_INTERPRETER,
    DatabricksSection,
    PythonSection,
    SparkSection,
)
from runyard.schema import seldom
from runyard_contract.errors import SpecInvalid, Unsupported

if TYPE_CHECKING:
    from runyard.run import Run
    from runyard.workspace import Workspace


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
class Environment(RefusedMethods):
    """What a script needs: an interpreter or packages, and environment variables.

        Environment.from_pip_requirements("iris", "requirements.txt")

        env = Environment("mine")
        env.python.user_managed_dependencies = True
        env.python.interpreter_path = "/opt/conda/envs/torch/bin/python"

    An environment that asks for nothing counts as unset: the run gets the caller's Python.
    `inferencing_stack_version`, `spark` and `databricks` are kept in files and mean nothing to a
    run; `r` is refused where it is set.
    """

    name: str | None = None
    version: str | None = None
    environment_variables: dict[str, str] = field(default_factory=dict)
    python: PythonSection = field(default_factory=PythonSection)
    docker: DockerSection = field(default_factory=DockerSection)
    spark: SparkSection = field(default_factory=SparkSection)
    databricks: DatabricksSection = field(default_factory=DatabricksSection)
    inferencing_stack_version: str | None = field(default=None, metadata=seldom())
    r: Any = field(default=None, metadata=seldom())

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
    def from_existing_conda_environment(
        cls, name: str, conda_environment_name: str | os.PathLike[str]
    ) -> Self:
        """An environment with what is installed in a conda environment on this machine: packages
        and versions without builds, so that another machine can have them, too.

        Args:
            conda_environment_name: its name, or the path of its folder. The conda, mamba or
                micromamba of CONDA_EXE, MAMBA_EXE or PATH is asked.

        Raises `EnvironmentNotFound`, with the nearest name, for one that there is not, and
        `SpecInvalid` without such a program, or where it fails, with its last words.
        """
        from runyard.conda_export import export_environment

        found = export_environment(os.fspath(conda_environment_name), os.environ)
        made = cls(name)
        made.python.conda_dependencies = CondaDependencies.from_file_content(found)
        made.environment_variables = made.python.conda_dependencies.variables
        return made

    @classmethod
    def from_docker_image(
        cls,
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: str | os.PathLike[str] | None = None,
        pip_requirements: str | os.PathLike[str] | None = None,
    ) -> Self:
        """An environment in a container image, such as "python:3.12-slim", as the node's Docker
        engine knows or finds it.

        With a conda YAML file or a requirements.txt their packages are put on top, once; else the
        image is taken as it is. Of `container_registry` only the address is served. Raises
        `SpecInvalid` for both at once, and as the readers of files.
        """
        made = cls(name)
        made.docker.base_image = image
        if container_registry is not None:
            made.docker.base_image_registry = container_registry
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

    def clone(self, new_name: str) -> Self:
        """A copy under another name, which has no version until it is registered."""
        made = copy.deepcopy(self)
        made.name, made.version = new_name, None
        return made

    def register(self, workspace: Workspace) -> Self:
        """Stores the environment in the workspace under its name, and gives back what is stored.

        The same content is the same version, other content the next one. Raises `SpecInvalid`,
        `Unsupported` as `to_specification`, and `NameInvalid`.
        """
        from runyard._environments import environment
        from runyard.environment_store import store_environment

        stored = store_environment(workspace, self.name or "", self, _interpreter())
        return environment(stored, type(self))

    @classmethod
    def get(
        cls,
        workspace: Workspace,
        name: str,
        version: str | int | None = None,
        label: str | None = None,
    ) -> Self:
        """A stored environment, the newest version unless one is named.

        Args:
            label: "latest", the newest version, is the only one that there is.

        Raises `EnvironmentNotFound`, with the nearest name.
        """
        from runyard._environments import environment
        from runyard.environment_store import get_environment

        if label is not None and (label != "latest" or version is not None):
            raise Unsupported(
                f"label {label!r} is not served: stored environments have versions, and the newest"
                ' is "latest"',
                hint="name a version, or no label",
                option="label",
            )
        found = get_environment(workspace, name, version)
        return environment(found, cls)

    @classmethod
    def list(cls, workspace: Workspace) -> dict[str, Self]:
        """The stored environments by name, in their newest versions."""
        from runyard._environments import environment
        from runyard.environment_store import list_environments

        found = (environment(one, cls) for one in list_environments(workspace))
        return {one.name or "": one for one in found}

    def build(self, workspace: Workspace, image_build_compute: str | None = None) -> Run:
        """Submits the run that builds the environment ahead on a target, and gives it back.

        Args:
            image_build_compute: the target. Default: "local".

        `wait_for_completion(show_output=True)` of the run shows the build. Raises `SpecInvalid`
        for an environment that asks for nothing.
        """
        from runyard._convert import run_record
        from runyard.environment_store import BUILD_EXPERIMENT, submit_build
        from runyard.experiment import Experiment
        from runyard.run import Run
        from runyard.run_spec import LOCAL
        from runyardpb.v1 import runs_pb2

        spec = runs_pb2.RunSpec(
            kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
            compute_target=image_build_compute or LOCAL,
        )
        made = submit_build(workspace, spec, self, _interpreter())
        return Run.from_record(Experiment(workspace, BUILD_EXPERIMENT), run_record(made))

    def build_local(
        self, workspace: Workspace, platform: str | None = None, **options: object
    ) -> Run:
        """Builds the environment on this machine, shows it live, and gives back the run that did.

        Raises `RunFailed` where it can't be built. `platform` and other options of Azure ML are
        refused: whether there is an image is the environment's to say.
        """
        given = [name for name, value in {"platform": platform, **options}.items() if value]
        if given:
            raise Unsupported(
                f"build_local has no {', '.join(given)} here",
                hint="leave it out; where docker.enabled is set, an image is built",
                option=given[0],
            )
        run = self.build(workspace)
        run.wait_for_completion(show_output=True)
        return run

    def save_to_directory(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the environment into a folder, to be edited: `azureml_environment.json`, and
        beside it `conda_dependencies.yml` and `BaseDockerfile` where there are such.

        Files that its packages include are written out. Raises `SpecInvalid` for a folder with
        something in it, unless it is to `overwrite` these files.
        """
        from runyard.environment_folder import save_environment

        save_environment(self, path, is_overwriting=overwrite)

    @classmethod
    def load_from_directory(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save_to_directory` wrote, also Azure ML's. Raises `SpecInvalid` with file
        and line."""
        from runyard.environment_folder import load_environment

        return load_environment(cls, path)

    @property
    def is_unset(self) -> bool:
        """Whether nothing is asked for, so that the run gets the caller's Python."""
        python = self.python
        if self.docker.enabled:
            return False
        return not (python.user_managed_dependencies or python.conda_dependencies.has_packages)

    def unserved(self) -> builtins.list[tuple[str, str]]:
        """(key, why) of each setting that would change the run and is not served yet."""
        found = self.docker.unserved() if self.docker.enabled else []
        if self.python.base_conda_environment:
            found.append(
                ("python.baseCondaEnvironment", "an environment is built from packages alone")
            )
        if self.r is not None:
            found.append(("r", "R comes with an image that has it: set docker.base_image"))
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


def _interpreter() -> bytes:
    """The caller's Python, which pip packages are for where no version is named."""
    from runyard.interpreter import submitting_interpreter

    return os.fsencode(submitting_interpreter().path)
