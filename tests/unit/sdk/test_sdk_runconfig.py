from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runyard import runconfig
from runyard.conda_dependencies import CondaDependencies
from runyard.environment import Environment
from runyard.runconfig import RunConfiguration
from runyard_contract.errors import SpecInvalid, Unsupported

V1_FILE = """\
# The script to run.
script: train.py
# The arguments to the script file.
arguments: [--alpha, 0.10, --name, 'a b']
target: local
# Framework to execute inside. Allowed values are "Python" ,  "PySpark", "CNTK".
framework: python
communicator: None
autoPrepareEnvironment: true
# Maximum allowed duration for the run.
maxRunDurationSeconds:
nodeCount: 1
# Environment details.
environment:
# Environment variables set for the run.
  environmentVariables:
    EXAMPLE_ENV_VAR: EXAMPLE_VALUE
    NUMBER: 010
  python:
    userManagedDependencies: false
    interpreterPath: python
    condaDependenciesFile: .azureml/conda_dependencies.yml
  docker:
    enabled: false
    baseImage: mcr.microsoft.com/azureml/base:0.2.0
    sharedVolumes: true
    arguments: []
  spark:
    repositories:
    - https://mmlspark.azureedge.net/maven
    packages:
    - group: com.microsoft.ml.spark
      artifact: mmlspark_2.11
      version: '0.12'
    precachePackages: true
history:
  outputCollection: true
  snapshotProject: true
spark:
  configuration:
    spark.app.name: Azure ML Experiment
    spark.yarn.maxAppAttempts: 1
hdi:
  yarnDeployMode: cluster
tensorflow:
  workerCount: 1
  parameterServerCount: 1
mpi:
  processCountPerNode: 1
dataReferences: {}
"""
V1_CONDA = """\
# Conda environment specification.
name: project_environment
dependencies:
  # The python interpreter version.
- python=3.6.2
- pip:
  - azureml-defaults
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder as Azure ML laid it out."""
    folder = tmp_path / ".azureml"
    folder.mkdir()
    (folder / "train.runconfig").write_text(V1_FILE)
    (folder / "conda_dependencies.yml").write_text(V1_CONDA)
    return tmp_path


def _load(tmp_path: Path, text: str) -> RunConfiguration:
    path = tmp_path / "x.runconfig"
    path.write_text(text)
    return RunConfiguration.load(path)


def test_defaults_are_those_of_v1() -> None:
    rc = RunConfiguration()

    assert (rc.script, rc.arguments, rc.target) == ("train.py", [], "local")
    assert (rc.framework, rc.communicator, rc.node_count) == ("Python", "None", 1)
    assert rc.max_run_duration_seconds is None
    assert rc.environment.is_unset
    assert rc.environment.docker.base_image == runconfig.DEFAULT_CPU_IMAGE
    assert rc.environment.docker.shm_size == "1g"
    assert rc.history.directories_to_watch == ["logs"]
    assert rc.amlcompute.cluster_max_node_count == 1
    rc.check_supported()


def test_v1_file_is_read_by_name_and_by_path(project: Path) -> None:
    by_name = RunConfiguration.load(project, "train")
    by_path = RunConfiguration.load(project / ".azureml/train.runconfig")

    assert by_name == by_path
    assert by_name.arguments == ["--alpha", "0.10", "--name", "a b"]
    assert by_name.framework == "Python"
    assert by_name.environment_variables == {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE", "NUMBER": "010"}
    assert by_name.environment.docker.base_image == "mcr.microsoft.com/azureml/base:0.2.0"
    assert by_name.spark.configuration["spark.yarn.maxAppAttempts"] == "1"
    assert by_name.environment.is_unset
    by_name.check_supported()


def test_loaded_environment_with_packages_is_system_managed(project: Path) -> None:
    conda = project / ".azureml/conda_dependencies.yml"
    conda.write_text(V1_CONDA + "  - scikit-learn\n")

    environment = RunConfiguration.load(project, "train").environment

    specification = environment.to_specification()
    assert (specification.kind, specification.requirements) == ("pip", ("scikit-learn",))
    assert specification.python_version is None


def test_saving_keeps_comments_and_changes_only_what_changed(project: Path) -> None:
    rc = RunConfiguration.load(project, "train")
    rc.node_count = 2
    rc.target = "gpu1"
    rc.environment.environment_variables["EXTRA"] = "true"
    del rc.environment.environment_variables["NUMBER"]

    saved = rc.save()

    assert saved == str(project / ".azureml/train.runconfig")
    expected = (
        V1_FILE.replace("nodeCount: 1", "nodeCount: 2")
        .replace("target: local", "target: gpu1")
        .replace("    NUMBER: 010\n", '    EXTRA: "true"\n')
        .replace("framework: python", "framework: Python")
    )
    assert Path(saved).read_text() == expected
    assert (project / ".azureml/conda_dependencies.yml").read_text() == V1_CONDA
    assert RunConfiguration.load(project, "train") == rc


def test_new_configuration_is_saved_whole_and_read_back(tmp_path: Path) -> None:
    rc = RunConfiguration(
        "a.py",
        ["-n", 3],
        conda_dependencies=CondaDependencies.create(pip_packages=["torch"], python_version="3.11"),
    )
    rc.max_run_duration_seconds = 3600
    rc.data_references["d"] = runconfig.DataReferenceConfiguration("blob", path_on_datastore="p")

    saved = Path(rc.save(tmp_path, "mine"))
    again = RunConfiguration.load(tmp_path, "mine")

    assert saved == tmp_path / ".azureml/mine.runconfig"
    assert saved.read_text().splitlines()[:4] == ["script: a.py", "arguments:", "- -n", "- 3"]
    assert "clusterMaxNodeCount: 1" in saved.read_text()
    assert again.max_run_duration_seconds == 3600
    assert again.environment.python.conda_dependencies.pip_packages == ["torch"]
    assert again.data_references == rc.data_references
    assert again.arguments == ["-n", "3"]


def test_changed_packages_are_written_to_the_file_they_came_from(project: Path) -> None:
    rc = RunConfiguration.load(project, "train")
    rc.environment.python.conda_dependencies.add_pip_package("torch")

    rc.save()

    conda = CondaDependencies(project / ".azureml/conda_dependencies.yml")
    assert conda.pip_packages == ["azureml-defaults", "torch"]
    assert "condaDependencies:" not in (project / ".azureml/train.runconfig").read_text()


def test_legacy_folder_comes_first_for_reading_and_writing(project: Path) -> None:
    (project / "aml_config").mkdir()
    (project / "aml_config/train.runconfig").write_text("script: legacy.py\n")

    rc = RunConfiguration.load(project, "train")

    assert rc.script == "legacy.py"
    assert RunConfiguration().save(project, "new") == str(project / "aml_config/new.runconfig")


def test_environment_can_be_kept_apart(tmp_path: Path) -> None:
    rc = RunConfiguration()
    rc.environment = Environment("torch-env")
    rc.environment.python.conda_dependencies.add_pip_package("torch")

    path = Path(rc.save(tmp_path, "r", separate_environment_yaml=True))

    assert "environment:" not in path.read_text()
    assert (tmp_path / ".azureml/environment.yml").read_text().startswith("name: torch-env\n")
    again = RunConfiguration.load(tmp_path, "r")
    assert again.environment.name == "torch-env"
    assert again.environment.python.conda_dependencies.pip_packages == ["torch"]


def test_delete_removes_the_file(project: Path) -> None:
    RunConfiguration.delete(project, "train")

    with pytest.raises(SpecInvalid, match="'train' does not exist in"):
        RunConfiguration.load(project, "train")


def test_unknown_configuration_names_the_nearest(project: Path) -> None:
    with pytest.raises(SpecInvalid) as near:
        RunConfiguration.load(project, "trian")
    with pytest.raises(SpecInvalid) as far:
        RunConfiguration.load(project, "zzz")
    with pytest.raises(SpecInvalid, match=r"there is no run configuration .*gone\.runconfig"):
        RunConfiguration.load(project / "gone.runconfig")

    assert near.value.hint == 'did you mean "train"?'
    assert far.value.hint == "there are: train"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("script: a\nscritp: b\n", "x.runconfig:2: unknown key 'scritp'", '"script"'),
        ("node_count: 1\n", "x.runconfig:1: unknown key 'node_count'", '"nodeCount"'),
        (
            "environment:\n  docker:\n    enable: true\n",
            "x.runconfig:3: unknown key 'enable' in environment.docker",
            '"enabled"',
        ),
        ("zzzzzz: 1\n", "unknown key 'zzzzzz'", "known keys: script, arguments"),
        ("nodeCount: two\n", "x.runconfig:1: nodeCount must be a whole number, not 'two'", ""),
        ("\nnodeCount: [1]\n", "x.runconfig:2: nodeCount must be a single value, not a list", ""),
        ("arguments: --a 1\n", "x.runconfig:1: arguments must be a list, not a single value", ""),
        ("arguments:\n- a\n-\n", "x.runconfig:3: arguments has an empty item", '""'),
        ("autoPrepareEnvironment: maybe\n", "must be true or false, not 'maybe'", ""),
        ("framework: Pyton\n", "x.runconfig:1: unknown framework 'Pyton'", '"Python"'),
        ("environment: python\n", "environment must be keys and values, not a single value", ""),
        ("script: [\n", "x.runconfig:2:1: ", "correct the file"),
        ("script: a\nscript: b\n", "x.runconfig:2:1: while constructing a mapping found dup", ""),
        ("arguments: [a, [b]]\n", "x.runconfig:1: arguments[1] must be one value, not list", ""),
        ("command: train\n", "x.runconfig:1: command must be a list", ""),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(
    text: str, message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid) as error:
        _load(tmp_path, text)

    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("framework: pyspark", "framework: PySpark"),
        ("communicator: IntelMpi", "communicator: IntelMpi"),
        ("nodeCount: '2'", "nodeCount: 2"),
        ("environment: {docker: {enabled: true}}", "environment.docker.baseImage"),
        ("target: amlcompute", "target: amlcompute"),
        ("dataReferences: {d: {dataStoreName: b}}", "dataReferences"),
        ("sourceDirectoryDataStore: b", "sourceDirectoryDataStore"),
        ("nodeCount: 2\ncommunicator: OpenMpi", "communicator: OpenMpi, nodeCount: 2"),
    ],
)
def test_keys_that_change_a_run_and_are_not_served_are_refused_by_name(
    text: str, keys: str, tmp_path: Path
) -> None:
    rc = _load(tmp_path, text)

    with pytest.raises(Unsupported) as error:
        rc.check_supported()

    assert error.value.metadata["keys"] == keys
    assert all(key in error.value.message for key in keys.split(", "))


def test_keys_that_mean_nothing_now_are_read_and_kept(tmp_path: Path) -> None:
    text = (
        "autoPrepareEnvironment: false\nprepareEnvironment: true\n"
        "history:\n  outputCollection: false\n  directoriesToWatch: [a]\n"
        "hdi: {yarnDeployMode: client}\nmpi: {processCountPerNode: 4}\n"
        "tensorflow: {workerCount: 3}\ncontainerInstance: {region: x, cpuCores: 1}\n"
        "environment:\n  docker: {gpuSupport: true, shmSize: 2g}\n"
        "  databricks:\n    pypiLibraries: [{package: x, repo: y}]\n"
    )
    rc = _load(tmp_path, text)

    rc.check_supported()
    rc.save()

    assert (tmp_path / "x.runconfig").read_text() == text
    assert rc.environment.databricks.pypi_libraries == [{"package": "x", "repo": "y"}]


def test_attributes_take_what_old_code_gives_them() -> None:
    rc = RunConfiguration(framework="python")
    rc.target = SimpleNamespace(name="gpu1")  # type: ignore[assignment]
    rc.node_count = "1"  # type: ignore[assignment]
    rc.max_run_duration_seconds = "300"  # type: ignore[assignment]
    rc.prepare_environment = True
    rc.environment_variables = {"A": "1"}

    assert (rc.target, rc.node_count, rc.max_run_duration_seconds) == ("gpu1", 1, 300)
    assert rc.environment.environment_variables == {"A": "1"}
    assert copy.deepcopy(rc) == rc


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("target", 5, "target must be a name or a compute target, not int"),
        ("framework", "PyTorsh", "unknown framework 'PyTorsh'"),
        ("node_count", "many", "node_count must be a whole number, not 'many'"),
        ("arguments", "--alpha 0.1", "arguments must be a list, not str"),
        ("arguments", ["--alpha", None], r"arguments\[1\] must be one value, not NoneType"),
    ],
)
def test_wrong_attribute_values_are_refused(attribute: str, value: Any, message: str) -> None:
    rc = RunConfiguration()

    with pytest.raises(SpecInvalid, match=message):
        setattr(rc, attribute, value)


def test_mistyped_attributes_are_refused() -> None:
    with pytest.raises(AttributeError):
        RunConfiguration().max_duration = 5  # type: ignore[attr-defined]


def test_printing_shows_the_content_and_no_password() -> None:
    rc = RunConfiguration("a.py")
    rc.environment.docker.base_image_registry.password = "s3cret"  # noqa: S105

    assert str(rc).startswith("script: a.py\n")
    assert "interpreterPath: python" in repr(rc)
    assert "s3cret" not in str(rc) + repr(rc.environment)


def test_missing_conda_file_is_named_unless_the_interpreter_is_the_users(project: Path) -> None:
    (project / ".azureml/conda_dependencies.yml").unlink()

    with pytest.raises(SpecInvalid, match=r"cannot read .*conda_dependencies\.yml"):
        RunConfiguration.load(project, "train")

    file = project / ".azureml/train.runconfig"
    file.write_text(V1_FILE.replace("Dependencies: false", "Dependencies: true"))
    environment = RunConfiguration.load(project, "train").environment
    assert environment.to_specification().kind == "user_managed"


def test_v1_names_are_exported() -> None:
    assert runconfig.EnvironmentDefinition is Environment
    assert runconfig.PythonEnvironment().interpreter_path == "python"
    assert not runconfig.DockerEnvironment().enabled
    assert all(hasattr(runconfig, name) for name in runconfig.__all__)
