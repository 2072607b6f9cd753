"""RunConfiguration: target, environment, framework and limits of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from runyard.conda_dependencies import CondaDependencies
from runyard.environment import Environment, refuse_unserved
from runyard.runconfig import files
from runyard.runconfig.sections import (
    AmlComputeConfiguration,
    DataReferenceConfiguration,
    HdiConfiguration,
    HistoryConfiguration,
    MpiConfiguration,
    SparkConfiguration,
    TensorflowConfiguration,
)
from runyard.schema import plain_section, read_section, seldom
from runyard.yaml_document import YamlDocument, read_yaml
from runyard_contract.errors import SpecInvalid
from runyard_contract.nearest import nearest

FRAMEWORKS = ("Python", "PySpark", "CNTK", "TensorFlow", "PyTorch")
COMMUNICATORS = ("None", "ParameterServer", "OpenMpi", "IntelMpi", "Mpi")


class _FileBacked:
    """What a configuration remembers of the file that it was loaded from."""

    __slots__ = ("_document", "_file")

    _document: YamlDocument | None
    _file: files.ConfigFile | None


@dataclass(init=False, slots=True, repr=False)
class RunConfiguration(_FileBacked):
    """Where and how a script runs. The attributes are the keys of a `.runconfig` file.

    Args:
        script: the script, relative to the source directory.
        arguments: its arguments; numbers become text.
        framework: "Python" in any case; the others are read and refused at submit.
        communicator: "None"; the others are read and refused at submit.
        conda_dependencies: the packages of the environment.

    `target` takes a name or an object with `.name`. `node_count` and `max_run_duration_seconds`
    take numbers or their text. `environment` asks for nothing until something is set in it.
    """

    script: str = "train.py"
    arguments: list[Any] = field(default_factory=list)
    command: list[Any] = field(default_factory=list, metadata=seldom())
    target: str = "local"
    framework: str = "Python"
    communicator: str = "None"
    auto_prepare_environment: bool = True
    prepare_environment: bool | None = field(default=None, metadata=seldom())
    max_run_duration_seconds: int | None = None
    node_count: int = 1
    environment: Environment = field(default_factory=Environment)
    history: HistoryConfiguration = field(default_factory=HistoryConfiguration)
    spark: SparkConfiguration = field(default_factory=SparkConfiguration)
    hdi: HdiConfiguration = field(default_factory=HdiConfiguration)
    tensorflow: TensorflowConfiguration = field(default_factory=TensorflowConfiguration)
    mpi: MpiConfiguration = field(default_factory=MpiConfiguration)
    data_references: dict[str, DataReferenceConfiguration] = field(default_factory=dict)
    source_directory_data_store: str | None = None
    amlcompute: AmlComputeConfiguration = field(default_factory=AmlComputeConfiguration)
    container_instance: Any = field(default=None, metadata=seldom())

    def __init__(
        self,
        script: str | None = None,
        arguments: Iterable[Any] | None = None,
        framework: str | None = None,
        communicator: str | None = None,
        conda_dependencies: CondaDependencies | None = None,
        *,
        command: Iterable[Any] | None = None,
    ) -> None:
        self._document = None
        self._file = None
        self.script = script or "train.py"
        self.arguments = list(arguments or ())
        self.command = list(command or ())
        self.target = files.LOCAL_RUNCONFIG_NAME
        self.framework = framework or "Python"
        self.communicator = communicator or "None"
        self.auto_prepare_environment = True
        self.prepare_environment = None
        self.max_run_duration_seconds = None
        self.node_count = 1
        self.environment = Environment()
        self.history = HistoryConfiguration()
        self.spark = SparkConfiguration()
        self.hdi = HdiConfiguration()
        self.tensorflow = TensorflowConfiguration()
        self.mpi = MpiConfiguration()
        self.data_references = {}
        self.source_directory_data_store = None
        self.amlcompute = AmlComputeConfiguration()
        self.container_instance = None
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies

    def __setattr__(self, name: str, value: Any) -> None:
        convert = _CONVERSIONS.get(name)
        object.__setattr__(self, name, convert(value) if convert else value)

    @property
    def environment_variables(self) -> dict[str, str]:
        """The environment's variables."""
        return self.environment.environment_variables

    @environment_variables.setter
    def environment_variables(self, variables: dict[str, str]) -> None:
        self.environment.environment_variables = variables

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str | None = None) -> Self:
        """Reads a configuration: `path` is the file, or the project folder of the one by `name`.

        In a project folder, `aml_config/` comes before `.azureml/`. Raises `SpecInvalid`, with file
        and line, for broken YAML, an unknown key (the nearest one is named) or a wrong value.
        """
        file = files.find(path, name)
        document = read_yaml(file.path)
        loaded = read_section(cls, document.root, document.source)
        apart = file.environment_path
        if "environment" not in document.root.entries and apart is not None and apart.is_file():
            separate = read_yaml(apart)
            loaded.environment = read_section(Environment, separate.root, separate.source)
        _load_conda_file(loaded.environment, file)
        loaded._document = document
        loaded._file = file
        return loaded

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        separate_environment_yaml: bool = False,
    ) -> str:
        """Writes the configuration and gives back the file's path.

        Without `path` and `name` it goes to the file it was loaded from, else `path` (a project
        folder, the current one by default, or a .runconfig file) and `name` ("local" by default)
        say where. Comments of a loaded file stay. Raises `OSError` when it can't be written.
        """
        from runyard_contract.paths import atomic_write  # not every run saves its configuration

        keep = path is None and name is None and self._file is not None
        file = self._file if keep and self._file else files.place_for(path or ".", name)
        document = self._document or YamlDocument(str(file.path))
        wanted = self._plain(is_whole=self._document is not None)
        apart = file.environment_path
        if separate_environment_yaml and apart is not None:
            separate = YamlDocument(str(apart))
            separate.update(wanted.pop("environment"), {})
            atomic_write(apart, separate.dump().encode(), mode=0o644)
        document.update(wanted, plain_section(RunConfiguration()) if self._document else {})
        _save_conda_file(self.environment, file)
        text = document.dump()
        atomic_write(file.path, text.encode(), mode=0o644)
        self._document = YamlDocument(str(file.path), text)
        self._file = file
        return str(file.path)

    @staticmethod
    def delete(path: str | os.PathLike[str], name: str | None = None) -> None:
        """Deletes a configuration's file; `SpecInvalid` when there is none."""
        files.find(path, name).path.unlink()

    def check_supported(self) -> None:
        """Raises `Unsupported`, listing every key, when a run would not be what this asks for.

        Keys that change how a run runs and are not served yet count; keys that mean nothing here
        (history, hdi, Spark packages of a Python run, prepare_environment) do not.
        """
        found = [(f"environment.{key}", why) for key, why in self.environment.unserved()]
        for key, value, served, why in (
            ("framework", self.framework, "Python", "only Python runs are served"),
            ("communicator", self.communicator, "None", "runs have one process so far"),
            ("nodeCount", self.node_count, 1, "runs have one node so far"),
        ):
            if value != served:
                found.append((f"{key}: {value}", why))
        if self.target.lower() in ("amlcompute", "containerinstance"):
            found.append((f"target: {self.target}", "clusters for one run come later"))
        if self.data_references:
            found.append(("dataReferences", "datastores come later"))
        if self.source_directory_data_store:
            found.append(("sourceDirectoryDataStore", "datastores come later"))
        refuse_unserved(found, str(self._file.path) if self._file else "")

    def __str__(self) -> str:
        document = YamlDocument("run configuration")
        shown = self._plain(is_whole=False)
        registry = shown["environment"]["docker"]["baseImageRegistry"]
        registry["password"] = registry["password"] and "***"
        document.update(shown, {})
        return document.dump()

    __repr__ = __str__

    def _plain(self, *, is_whole: bool) -> dict[str, Any]:
        found = plain_section(self, is_whole=is_whole)
        python = found["environment"]["python"]
        if python["condaDependenciesFile"]:  # the packages stand there
            python.pop("condaDependencies", None)
        return found


def _load_conda_file(environment: Environment, file: files.ConfigFile) -> None:
    """Reads the packages of a system-managed environment from the file that it names."""
    python = environment.python
    if python.conda_dependencies_file and not python.user_managed_dependencies:
        path = _conda_path(python.conda_dependencies_file, file)
        python.conda_dependencies = CondaDependencies(path)
        environment.environment_variables = {
            **python.conda_dependencies.variables,
            **environment.environment_variables,
        }


def _save_conda_file(environment: Environment, file: files.ConfigFile) -> None:
    """Writes the packages back to the file they came from, if they were changed since."""
    python = environment.python
    if python.conda_dependencies_file and not python.user_managed_dependencies:
        path = _conda_path(python.conda_dependencies_file, file)
        if not path.exists() or CondaDependencies(path) != python.conda_dependencies:
            python.conda_dependencies.save(path)


def _conda_path(named: str, file: files.ConfigFile) -> Path:
    """Paths in a configuration start from the project folder; beside the file will do as well."""
    in_project = file.project / named
    beside = file.path.parent / named
    return beside if beside.is_file() and not in_project.is_file() else in_project


def _target(value: Any) -> str:
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise SpecInvalid(
            f"target must be a name or a compute target, not {type(value).__name__}",
            hint="list what there is with `runyard compute list`",
        )
    return name


def _one_of(what: str, known: tuple[str, ...]) -> Callable[[Any], str]:
    by_lower = {one.lower(): one for one in known}

    def convert(value: Any) -> str:
        found = by_lower.get(str(value).lower())
        if found is None:
            close = nearest(str(value), known)
            hint = f'did you mean "{close}"?' if close else f"known: {', '.join(known)}"
            raise SpecInvalid(f"unknown {what} {str(value)[:100]!r}", hint=hint)
        return found

    return convert


def _whole_number(what: str) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            return int(value)
        except (TypeError, ValueError):
            raise SpecInvalid(f"{what} must be a whole number, not {str(value)[:100]!r}") from None

    return convert


def _max_duration(value: Any) -> int | None:
    return None if value in (None, "") else _whole_number("max_run_duration_seconds")(value)


def _listed(what: str) -> Callable[[Any], list[Any]]:
    def convert(value: Any) -> list[Any]:
        if isinstance(value, str | bytes | dict):
            raise SpecInvalid(
                f"{what} must be a list, not {type(value).__name__}",
                hint=f'write each word by itself: {what} = ["--alpha", "0.1"]',
            )
        items = list(value or ())
        for index, item in enumerate(items):
            if item is None or isinstance(item, list | tuple | dict):
                kind = type(item).__name__
                raise SpecInvalid(f"{what}[{index}] must be one value, not {kind}")
        return items

    return convert


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "target": _target,
    "framework": _one_of("framework", FRAMEWORKS),
    "communicator": _one_of("communicator", COMMUNICATORS),
    "node_count": _whole_number("node_count"),
    "max_run_duration_seconds": _max_duration,
    "arguments": _listed("arguments"),
    "command": _listed("command"),
}
