from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard.environment import Environment
from runyard.run_spec import environment_message
from runyard_contract.conda_specification import conda_specification
from runyardpb.v1.environments_pb2 import (
    CondaPackages,
    DockerImage,
    EnvironmentSpec,
    PipPackages,
    UserManagedPython,
)

CONDA = EnvironmentSpec(
    conda=CondaPackages(
        python_version="3.11",
        packages=["numpy>=1.26,<2", "conda-forge::scipy=1.11", "y"],
        channels=["file:///srv/channel", "conda-forge"],
        pip_requirements=["six==1.16.0", "torch[cuda]>=2 ; python_version > '3.8'"],
        pip_index_options=["--index-url=https://index.example/simple", "--pre"],
    )
)
PIP = EnvironmentSpec(
    pip=PipPackages(
        python_version="3.10",
        requirements=["scikit-learn", "rygit @ git+https://host.example/rygit@0123"],
        index_options=["--extra-index-url=https://index.example/simple"],
    )
)


def test_yaml_of_conda_packages_is_what_a_person_would_write() -> None:
    spec = EnvironmentSpec(conda=CONDA.conda)
    spec.variables.add(name=b"MODE", value=b"on: 1")

    assert conda_specification(spec, "iris-env") == (
        "name: iris-env\n"
        "channels:\n"
        '  - "file:///srv/channel"\n'
        "  - conda-forge\n"
        "dependencies:\n"
        "  - python=3.11\n"
        "  - numpy>=1.26,<2\n"
        '  - "conda-forge::scipy=1.11"\n'
        '  - "y"\n'
        "  - pip\n"
        "  - pip:\n"
        '    - "--index-url https://index.example/simple"\n'
        '    - "--pre"\n'
        "    - six==1.16.0\n"
        "    - \"torch[cuda]>=2 ; python_version > '3.8'\"\n"
        "variables:\n"
        '  "MODE": "on: 1"\n'
    )


@pytest.mark.parametrize("spec", [CONDA, PIP], ids=["conda", "pip"])
def test_environment_of_the_yaml_is_the_same(spec: EnvironmentSpec, tmp_path: Path) -> None:
    (tmp_path / "env.yml").write_text(conda_specification(spec))

    read = Environment.from_conda_specification("again", tmp_path / "env.yml")

    expected = EnvironmentSpec()
    expected.CopyFrom(spec)
    if spec.HasField("conda"):
        expected.conda.packages.append("pip")  # conda itself needs it for a pip section
    assert environment_message(read.to_specification(), b"") == expected


def test_python_that_was_left_open_is_that_of_the_lock() -> None:
    spec = EnvironmentSpec(pip=PipPackages(requirements=["six"]))

    assert "  - python=3.12\n" in conda_specification(spec, python_version="3.12")
    assert "  - python\n" in conda_specification(spec)
    assert conda_specification(spec).startswith("name: project_environment\n")


def test_python_and_pip_among_the_packages_are_not_named_twice() -> None:
    conda = CondaPackages(
        packages=["python>=3.11", "pip=24"], channels=["c"], pip_requirements=["six"]
    )

    text = conda_specification(EnvironmentSpec(conda=conda))

    assert text.count("python") == 1
    assert text.count("- pip") == 2


def test_what_a_file_can_not_hold_is_in_comments() -> None:
    spec = EnvironmentSpec(
        docker=DockerImage(
            image="python:3.12", pip=PipPackages(requirements=["six"], constraints=["six<2"])
        )
    )

    text = conda_specification(spec)

    assert text.startswith("# on top of the image python:3.12\nname: ")
    assert text.endswith("    - six\n      # constraint: six<2\n")


@pytest.mark.parametrize(
    "spec",
    [
        EnvironmentSpec(),
        EnvironmentSpec(user_managed=UserManagedPython(interpreter_path=os.fsencode("/x"))),
        EnvironmentSpec(docker=DockerImage(image="python:3.12")),
    ],
)
def test_where_nothing_is_installed_there_is_no_specification(spec: EnvironmentSpec) -> None:
    assert conda_specification(spec) == ""
