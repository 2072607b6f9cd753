"""An environment as a folder to edit: written, read back, and written by Azure ML's own SDK."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard import CondaDependencies, Environment, SpecInvalid, Unsupported
from runyard._environments import environment
from runyard.environment_folder import DOCKERFILE, PACKAGES, SETTINGS
from runyard.environment_store import environment_spec
from runyardpb.v1 import environments_pb2

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
TEXTS = st.text(max_size=12) | st.just("\udcff of no UTF-8")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12)
DOCKERFILES = st.none() | st.sampled_from(
    ["FROM debian:12\n", "# é 😀\nFROM a\nRUN echo '\\ud83d'\n"]
)


@st.composite
def environments(draw: st.DrawFn) -> Environment:
    """Environments with anything that can be set, also what no run would take."""
    env = Environment(draw(NAMES), draw(st.none() | st.just("3")))
    env.environment_variables = draw(st.dictionaries(NAMES, TEXTS, max_size=3))
    env.python.user_managed_dependencies = draw(st.booleans())
    env.python.interpreter_path = draw(WORDS)
    env.python.base_conda_environment = draw(st.none() | NAMES)
    env.python.conda_dependencies_file = draw(st.none() | NAMES)
    env.docker.enabled = draw(st.booleans())
    env.docker.base_image = draw(st.none() | WORDS)
    env.docker.base_dockerfile = draw(DOCKERFILES)
    env.docker.shm_size = draw(st.none() | st.just("2g"))
    env.docker.gpu_support = draw(st.booleans())
    env.docker.arguments = draw(st.lists(WORDS, max_size=2))
    env.docker.base_image_registry.address = draw(st.none() | WORDS)
    env.inferencing_stack_version = draw(st.none() | NAMES)
    env.spark.repositories = draw(st.lists(WORDS, max_size=2))
    packages = CondaDependencies()
    for name in draw(st.lists(NAMES, max_size=3)):
        packages.add_pip_package(f"{name}>=1,<2; python_version > '3'")
        packages.add_conda_package(f"{name}=1.2")
    if draw(st.booleans()):
        packages.set_python_version("3.10")
        packages.add_channel("conda-forge")
        packages.set_pip_option("--extra-index-url https://i.example/?a=b#c")
    env.python.conda_dependencies = packages
    return env


@settings(max_examples=60)  # it writes files
@given(environments())
def test_nothing_is_lost_between_writing_and_reading(env: Environment) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env.save_to_directory(folder)

        assert Environment.load_from_directory(folder) == env


def test_files_have_the_names_that_azure_ml_gave_them(tmp_path: Path) -> None:
    env = Environment.from_dockerfile("iris", "FROM python:3.12\n")
    env.python.user_managed_dependencies = False
    env.python.conda_dependencies.add_pip_package("six")

    env.save_to_directory(tmp_path / "iris")

    folder = tmp_path / "iris"
    assert sorted(path.name for path in folder.iterdir()) == [
        "BaseDockerfile",
        "azureml_environment.json",
        "conda_dependencies.yml",
    ]
    settings = json.loads((folder / SETTINGS).read_text())
    assert settings["name"] == "iris"
    assert settings["docker"]["baseDockerfile"] is None
    assert "condaDependencies" not in settings["python"]
    assert (folder / DOCKERFILE).read_text() == "FROM python:3.12\n"


def test_folder_that_is_not_empty_is_kept_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = Environment.from_dockerfile("iris", "FROM a\n")
    first.python.conda_dependencies.add_pip_package("six")
    plain = Environment("plain")

    with pytest.raises(SpecInvalid, match="is not empty") as e:
        first.save_to_directory(tmp_path)
    first.save_to_directory(tmp_path, overwrite=True)
    plain.save_to_directory(tmp_path, overwrite=True)

    assert "--overwrite" in e.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == [SETTINGS, "notes.txt"]
    assert Environment.load_from_directory(tmp_path) == plain


def test_what_packages_include_is_written_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "base.txt").write_text("scipy==1.11\n-c limits.txt\n")
    (source / "limits.txt").write_text("b<2\n")
    (source / "env.yml").write_text(
        "name: x\nchannels: [./channel, nodefaults]\n"
        "dependencies:\n- numpy\n- pip:\n  - -r base.txt\nvariables: {A: b}\n"
    )
    env = Environment.from_conda_specification("iris", source / "env.yml")
    wanted = env.to_specification()

    env.save_to_directory(tmp_path / "saved")
    for path in source.iterdir():
        path.unlink()

    assert Environment.load_from_directory(tmp_path / "saved").to_specification() == wanted
    assert wanted.constraints == ("b<2",)


def test_stored_environment_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    made = Environment.from_docker_image("e", "python:3.12")
    made.docker.shm_size = None
    made.python.user_managed_dependencies = False
    made.python.conda_dependencies.add_conda_package("numpy")
    made.environment_variables = {"A": "1"}
    sent = environment_spec(made, b"")
    stored = environment(
        environments_pb2.Environment(name="workspaces/lab/environments/e/versions/2", spec=sent),
        Environment,
    )

    stored.save_to_directory(tmp_path / "e")

    assert environment_spec(Environment.load_from_directory(tmp_path / "e"), b"") == sent


def test_file_that_azure_ml_wrote_is_read(tmp_path: Path) -> None:
    settings = {
        "databricks": {"eggLibraries": [], "jarLibraries": []},
        "docker": {
            "arguments": [],
            "baseDockerfile": None,
            "baseImage": "debian:12",
            "baseImageRegistry": {"address": None, "registryIdentity": None, "password": None},
            "enabled": True,
            "platform": {"architecture": "amd64", "os": "Linux"},
            "sharedVolumes": True,
            "shmSize": None,
        },
        "environmentVariables": {"EXAMPLE_ENV_VAR": "😀 \\ud83d\\ude00"},
        "inferencingStackVersion": None,
        "name": "old",
        "python": {"interpreterPath": "python", "userManagedDependencies": True},
        "r": None,
        "version": "7",
    }
    (tmp_path / SETTINGS).write_text(json.dumps(settings, indent=4))

    env = Environment.load_from_directory(tmp_path)

    assert (env.name, env.version, env.docker.shm_size) == ("old", "7", None)
    assert env.environment_variables == {"EXAMPLE_ENV_VAR": "😀 \\ud83d\\ude00"}
    assert env.to_specification().docker is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("platform", {"os": "Windows", "architecture": "amd64"}),
        ("buildContext", {"dockerfilePath": "Dockerfile"}),
    ],
)
def test_image_of_another_platform_or_folder_is_refused_by_key(
    key: str, value: object, tmp_path: Path
) -> None:
    docker = {"enabled": True, "baseImage": "debian:12", key: value}
    (tmp_path / SETTINGS).write_text(json.dumps({"name": "old", "docker": docker}))

    with pytest.raises(Unsupported, match=f"docker.{key}"):
        Environment.load_from_directory(tmp_path).to_specification()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n "naem": "x"\n}', r"azureml_environment\.json:2: unknown key .naem."),
        ('{\n "python": {"userManagedDependencies": 3}\n}', r"json:2: .* must be true or false"),
        ('{\n "name": "x"\n "version": "1"\n}', r"azureml_environment\.json:3:"),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_line(
    text: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / SETTINGS).write_text(text)

    with pytest.raises(SpecInvalid, match=says):
        Environment.load_from_directory(tmp_path)


def test_folder_without_an_environment_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / PACKAGES).write_text("dependencies: []\n")

    with pytest.raises(SpecInvalid, match=r"azureml_environment\.json is not there"):
        Environment.load_from_directory(tmp_path)


def test_password_is_not_written_to_a_file(tmp_path: Path) -> None:
    env = Environment.from_docker_image("e", "team/x:1")
    env.docker.base_image_registry.password = "hush"  # noqa: S105

    with pytest.raises(Unsupported, match="password is not written"):
        env.save_to_directory(tmp_path / "e")

    assert not (tmp_path / "e").exists()
