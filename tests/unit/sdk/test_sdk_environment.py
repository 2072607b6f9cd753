from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runyard._environments import environment
from runyard.conda_dependencies import CondaDependencies
from runyard.environment import Environment, EnvironmentSpecification
from runyard.requirements import Requirements
from runyard.run_spec import environment_message
from runyard_contract.errors import SpecInvalid, Unsupported
from runyardpb.v1 import environments_pb2


def _conda(tmp_path: Path, text: str) -> Environment:
    path = tmp_path / "env.yml"
    path.write_text(text)
    return Environment.from_conda_specification("e", path)


def test_new_environment_is_unset_and_means_the_callers_python() -> None:
    env = Environment("e")
    env.environment_variables["A"] = "1"

    assert env.is_unset
    assert env.to_specification() == EnvironmentSpecification(
        "user_managed", environment_variables={"A": "1"}
    )


@pytest.mark.parametrize(
    ("path", "sent"), [("python", ""), ("/opt/py/bin/python", "/opt/py/bin/python")]
)
def test_user_managed_environment_sends_its_interpreter(path: str, sent: str) -> None:
    env = Environment("e")
    env.python.user_managed_dependencies = True
    env.python.interpreter_path = path
    env.python.conda_dependencies.add_conda_package("numpy")  # means nothing beside it

    assert not env.is_unset
    assert env.to_specification() == EnvironmentSpecification("user_managed", sent)


def test_from_pip_requirements_sends_what_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "-r base.txt\n-c limits.txt\n-i https://i.example/\n"
    )
    (tmp_path / "base.txt").write_text('a==1; python_version<"3"\na==2; python_version>="3"\n')
    (tmp_path / "limits.txt").write_text("b<2\n")

    env = Environment.from_pip_requirements("e", tmp_path / "requirements.txt")

    assert env.to_specification() == EnvironmentSpecification(
        "pip",
        requirements=('a==1; python_version<"3"', 'a==2; python_version>="3"'),
        constraints=("b<2",),
        index_options=("--index-url https://i.example/",),
    )
    assert env.python.conda_dependencies.pip_packages == [
        'a==1; python_version<"3"',
        'a==2; python_version>="3"',
    ]


@pytest.mark.parametrize(
    ("wish", "version"),
    [
        ("python=3.11", "3.11"),
        ("python==3.11.4", "3.11.4"),
        ("python=3.11.*", "3.11"),
        ("python=3.11.4=h123_0", "3.11.4"),
        ("conda-forge::python=3.12", "3.12"),
        ("python 3.10", "3.10"),
        ("python", None),
        ("python=3.6.2", None),
    ],
)
def test_conda_python_version_is_sent_in_pips_terms(
    wish: str, version: str | None, tmp_path: Path
) -> None:
    env = _conda(tmp_path, f"dependencies:\n- {wish}\n- pip=24\n- pip:\n  - numpy\n")

    specification = env.to_specification()

    assert (specification.kind, specification.python_version) == ("pip", version)
    assert specification.requirements == ("numpy",)


def test_pip_options_reach_the_daemon_in_its_form(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("-f https://i.example/wheels\n--pre\n--no-index\nnumpy\n")
    env = Environment.from_pip_requirements("e", path)

    message = environment_message(env.to_specification(), b"/usr/bin/python3")

    assert message is not None
    assert list(message.pip.index_options) == [
        "--find-links=https://i.example/wheels",
        "--pre",
        "--no-index",
    ]
    assert list(message.pip.requirements) == ["numpy"]


def test_conda_file_with_pip_section_reads_includes_beside_it(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("scipy\n")
    env = _conda(
        tmp_path,
        "name: x\nchannels: [conda-forge]\nprefix: /opt/x\ndependencies:\n"
        "- pip\n- pip:\n  - numpy  # fast\n  - -r requirements.txt\n"
        "  - --extra-index-url https://i.example/\n",
    )

    specification = env.to_specification()

    assert specification.requirements == ("numpy", "scipy")
    assert specification.index_options == ("--extra-index-url https://i.example/",)
    assert env.python.conda_dependencies.conda_channels == ["conda-forge"]


@pytest.mark.parametrize(
    ("wish", "shown"), [("python>=3.9,<3.12", ">=3.9,<3.12"), ("python=2.7", "2.7")]
)
def test_python_that_is_no_single_version_is_refused_by_name(
    wish: str, shown: str, tmp_path: Path
) -> None:
    env = _conda(tmp_path, f"dependencies:\n- {wish}\n- pip:\n  - numpy\n")

    with pytest.raises(Unsupported, match=f'environment "e" asks for Python {shown}') as e:
        env.to_specification()

    assert "python=3.11" in e.value.hint


def test_stored_environment_reads_back_what_was_sent(tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text("b<2\n")
    (tmp_path / "requirements.txt").write_text(
        "-c limits.txt\n-i https://i.example/?a=b\n-f https://f.example\n--pre\na[x]>=1\n"
    )
    sent = Environment.from_pip_requirements("e", tmp_path / "requirements.txt")
    sent.python.conda_dependencies.set_python_version("3.11")
    message = environment_message(sent.to_specification(), b"/usr/bin/python3")

    found = environment(
        environments_pb2.Environment(
            name="workspaces/lab/environments/e/versions/3", spec=message, version=3
        ),
        Environment,
    )

    assert (found.name, found.version) == ("e", "3")
    assert found.to_specification() == sent.to_specification()
    assert environment_message(found.to_specification(), b"/usr/bin/python3") == message


def test_constraints_are_kept_when_dependencies_are_saved_and_read(tmp_path: Path) -> None:
    made = CondaDependencies.from_requirements(
        Requirements(lines=("a",), constraints=("b<2", "c<3"))
    )

    read = CondaDependencies(made.save(tmp_path / "env.yml"))

    assert read == made
    assert read.to_requirements().constraints == ("b<2", "c<3")


def test_conda_packages_are_sent_with_their_channels_and_the_pip_section(tmp_path: Path) -> None:
    env = _conda(
        tmp_path,
        "channels: [mine, nodefaults, ./channel]\n"
        "dependencies:\n- python=3.11\n- cudatoolkit=11\n- numpy>=1.26\n- pip\n"
        "- pip:\n  - six\n  - --pre\n",
    )

    specification = env.to_specification()
    message = environment_message(specification, b"/usr/bin/python3")

    assert specification.kind == "conda"
    assert message == environments_pb2.EnvironmentSpec(
        conda=environments_pb2.CondaPackages(
            python_version="3.11",
            packages=["cudatoolkit=11", "numpy>=1.26", "pip"],
            channels=["mine", (tmp_path / "channel").as_uri()],
            pip_requirements=["six"],
            pip_index_options=["--pre"],
        )
    )


@pytest.mark.parametrize(
    ("wish", "version", "packages"),
    [
        ("python=3.11", "3.11", ["numpy"]),
        ("python==3.11.4", "3.11.4", ["numpy"]),
        ("python 3.11.*", "3.11", ["numpy"]),
        ("python", None, ["numpy"]),
        ("python=3.6.2", None, ["numpy"]),
        ("python>=3.9,<3.12", None, ["python>=3.9,<3.12", "numpy"]),
        ("python=3.11.4=h1_cpython", None, ["python=3.11.4=h1_cpython", "numpy"]),
        ("mine::python=3.11", None, ["mine::python=3.11", "numpy"]),
        ("python-dateutil=2", None, ["python-dateutil=2", "numpy"]),
    ],
)
def test_python_among_conda_packages(
    wish: str, version: str | None, packages: list[str], tmp_path: Path
) -> None:
    env = _conda(tmp_path, f"dependencies:\n- {wish}\n- numpy\n")

    specification = env.to_specification()

    assert (specification.python_version, list(specification.conda_packages)) == (
        version,
        packages,
    )
    assert specification.channels == ("conda-forge",)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("dependencies: ['numpy;reboot']\n", "numpy;reboot"),
        ('dependencies: ["numpy[version=1]"]\n', r"numpy\[version=1\]"),
        ("channels: [defaults]\ndependencies: [numpy]\n", "defaults"),
        ("channels: ['a;b']\ndependencies: [numpy]\n", "a;b"),
        ("channels: ['https://me:pw@x.example/c']\ndependencies: [numpy]\n", "credentials"),
    ],
)
def test_conda_package_or_channel_that_is_none_is_named(
    lines: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid, match=named) as e:
        _conda(tmp_path, lines).to_specification()

    assert 'environment "e" has a conda ' in e.value.message
    assert "pw" not in e.value.message


def test_variables_of_a_conda_file_are_the_jobs(tmp_path: Path) -> None:
    found = _conda(tmp_path, "dependencies: [numpy]\nvariables:\n  A: b\n  N: 1\n")

    assert found.to_specification().environment_variables == {"A": "b", "N": "1"}
    assert "variables" in found.python.conda_dependencies.serialize_to_string()
    assert _conda(tmp_path, "dependencies: [numpy]\nvariables:\n").to_specification()
    with pytest.raises(SpecInvalid, match=r"env\.yml:2: variables must have a value"):
        _conda(tmp_path, "dependencies: [numpy]\nvariables: [A]\n")


def test_python_2_is_refused_among_conda_packages_too(tmp_path: Path) -> None:
    env = _conda(tmp_path, "dependencies:\n- python=2.7\n- numpy\n")

    with pytest.raises(Unsupported, match=r'"e" asks for Python 2\.7'):
        env.to_specification()


def test_stored_conda_environment_reads_back_what_was_sent(tmp_path: Path) -> None:
    sent = _conda(
        tmp_path,
        "channels: [mine]\ndependencies:\n- python=3.11\n- numpy\n- pip:\n  - six\n  - --pre\n"
        "constraints: [a<2]\n",
    )
    message = environment_message(sent.to_specification(), b"")

    found = environment(
        environments_pb2.Environment(
            name="workspaces/lab/environments/e/versions/3", spec=message, version=3
        ),
        Environment,
    )

    assert found.to_specification() == sent.to_specification()
    assert environment_message(found.to_specification(), b"") == message


def test_azure_mls_own_filling_counts_as_unset(tmp_path: Path) -> None:
    env = _conda(tmp_path, "dependencies:\n- python=3.6.2\n- pip:\n  - azureml-defaults==1.0.39\n")

    assert env.is_unset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dependencies:\n- pip:\n  - -e .\n", r"env\.yml:3: '-e \.' is on this machine only"),
        ("dependencies:\n- conda: [a]\n", r"env\.yml:2: only pip can have a list"),
        ("dependencies:\n- pip: numpy\n", r"env\.yml:2: pip must have a list"),
        ("dependencies:\n- pip:\n  -\n", r"env\.yml:3: a pip requirement must be one line"),
        ("dependencies: numpy\n", r"env\.yml:1: dependencies is not of the form"),
        ("dependecies: []\n", r"env\.yml:1: unknown key 'dependecies'"),
        ("- numpy\n", r"env\.yml:1: the file must hold keys and values"),
        ("dependencies: [\n", r"env\.yml:\d+:\d+: "),
    ],
)
def test_bad_conda_files_are_named_with_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=message):
        _conda(tmp_path, text).to_specification()


def test_vendors_image_credentials_and_base_conda_environment_are_refused_by_key() -> None:
    env = Environment("e")
    env.docker.enabled = True
    env.docker.base_image_registry.username = "me"
    env.python.base_conda_environment = "base"

    with pytest.raises(Unsupported) as error:
        env.to_specification()

    assert error.value.metadata["keys"] == (
        "docker.baseImage, docker.baseImageRegistry, python.baseCondaEnvironment"
    )


def _sent(env: Environment) -> environments_pb2.EnvironmentSpec:
    """The environment as it goes over the wire, with the caller's Python beside it."""
    message = environment_message(env.to_specification(), b"/usr/bin/python3")
    assert message is not None
    return message


def test_docker_image_is_sent_with_how_it_runs_and_comes_back_the_same() -> None:
    env = Environment.from_docker_image("e", "team/train:2")
    env.docker.base_image_registry.address = "ghcr.io"
    env.docker.shm_size = "2g"
    env.docker.gpu_support = True
    env.docker.arguments = ["--network=host"]

    sent = _sent(env)
    back = environment(
        environments_pb2.Environment(name="workspaces/lab/environments/e/versions/1", spec=sent),
        Environment,
    )

    assert sent.docker == environments_pb2.DockerImage(
        image="ghcr.io/team/train:2",
        shm_bytes=2 << 30,
        network="host",
        arguments=["--network=host", "--gpus=all"],
    )
    assert _sent(back) == sent


def test_network_and_mounts_of_other_clients_are_options_here() -> None:
    spec = environments_pb2.EnvironmentSpec(
        docker=environments_pb2.DockerImage(
            image="debian:12",
            network="host",
            mounts=[
                environments_pb2.BindMount(source=b"/data", target="/in", is_read_only=True),
            ],
        )
    )
    name = "workspaces/lab/environments/e/versions/1"

    back = environment(environments_pb2.Environment(name=name, spec=spec), Environment)

    assert back.docker.arguments == ["--network=host", "--volume=/data:/in:ro"]
    assert _sent(back).docker.network == "host"


def test_packages_are_put_on_a_docker_image(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("six==1.16.0\n")
    (tmp_path / "env.yml").write_text("dependencies: [numpy]\n")

    pip = _sent(Environment.from_docker_image("e", "python:3.12", None, None, tmp_path / "r.txt"))
    conda = _sent(Environment.from_docker_image("e", "debian:12", None, tmp_path / "env.yml"))

    assert list(pip.docker.pip.requirements) == ["six==1.16.0"]
    assert pip.docker.pip.base_interpreter_path == b""
    assert list(conda.docker.conda.packages) == ["numpy"]
    with pytest.raises(SpecInvalid, match="can't both be put on one image"):
        Environment.from_docker_image("e", "x", None, tmp_path / "env.yml", tmp_path / "r.txt")


def test_dockerfile_is_given_as_text_or_by_its_path(tmp_path: Path) -> None:
    text = "# comment\nFROM python:3.12-slim\nRUN true\n"
    (tmp_path / "Dockerfile").write_text(text)

    by_path = _sent(Environment.from_dockerfile("e", tmp_path / "Dockerfile"))
    by_text = _sent(Environment.from_dockerfile("e", text))

    assert by_path == by_text
    assert by_path.docker.dockerfile == text
    assert by_path.docker.image == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_image": "Not An Image"}, "names no image"),
        ({"shm_size": "much"}, "shm_size can't be used"),
        ({"arguments": ["--memery=1g"]}, "did you mean --memory"),
        ({"base_dockerfile": "/nowhere/Dockerfile"}, "/nowhere/Dockerfile can't be read"),
        ({"base_dockerfile": "RUN true\n"}, "has no FROM"),
    ],
)
def test_what_no_engine_could_be_asked_for_is_refused(change: dict[str, Any], says: str) -> None:
    env = Environment.from_docker_image("e", "python:3.12")
    for name, value in change.items():
        setattr(env.docker, name, value)

    with pytest.raises(SpecInvalid, match=says):
        env.to_specification()


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_bad_environment_variables_are_refused(name: str) -> None:
    env = Environment("e", environment_variables={name: "x"})

    with pytest.raises(SpecInvalid, match="cannot be set"):
        env.to_specification()


def test_conda_dependencies_are_edited_by_name() -> None:
    packages = CondaDependencies.create(
        pip_indexurl="https://i.example/simple",
        pip_packages=["Scikit_Learn==1.0", "torch"],
        conda_packages=["numpy=1.2"],
        python_version="3.11",
    )
    packages.add_pip_package("scikit-learn>=1.5")
    packages.add_conda_package("conda-forge::numpy")
    packages.remove_pip_package("TORCH")
    packages.set_python_version("3.12")
    packages.set_pip_option("--extra-index-url https://e.example/")
    packages.set_pip_index_url("https://j.example/simple")
    packages.add_channel("conda-forge")

    assert packages.conda_packages == ["python=3.12", "conda-forge::numpy"]
    assert packages.pip_packages == ["scikit-learn>=1.5"]
    assert packages.pip_options == [
        "--extra-index-url https://e.example/",
        "--index-url https://j.example/simple",
    ]
    assert packages.get_python_version() == "3.12"
    assert packages.conda_channels == ["conda-forge"]


def test_conda_dependencies_survive_saving_and_loading(tmp_path: Path) -> None:
    packages = CondaDependencies.create(
        pip_packages=["torch>=2"], conda_packages=["numpy"], python_version="3.10"
    )

    relative = packages.save_to_file(tmp_path, "conda.yml")

    again = CondaDependencies(tmp_path / relative)
    assert again == packages
    assert again.serialize_to_string() == (tmp_path / "conda.yml").read_text()
    assert packages != CondaDependencies()
