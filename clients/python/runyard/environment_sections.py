"""The sections of an environment beside its container image, in Azure ML's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runyard.conda_dependencies import CondaDependencies
from runyard.schema import seldom

DEFAULT_INTERPRETER = "python"


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
