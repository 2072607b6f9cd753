"""Which script, source directory, environment and interpreter a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard.cli.request import RunOptions, RunRequest, prepare
from runyard.environment import Environment
from runyard_contract.errors import (
    EnvironmentNotFound,
    NameInvalid,
    RunyardError,
    SourceInvalid,
    SpecInvalid,
    Unsupported,
)

INTERPRETER = "/usr/bin/python3"


def prepared(*words: str, is_command: bool = False, **options: str) -> RunRequest:
    environ = {b"PATH": b"/usr/bin:/bin", b"HOME": b"/nonexistent"}
    return prepare(RunOptions(words=words, is_command=is_command, **options), environ, None)  # type: ignore[arg-type]


def test_source_is_the_current_folder_when_the_script_lies_in_it(project: Path) -> None:
    (project / "src").mkdir()
    (project / "src/x.py").touch()

    request = prepared("src/x.py")

    assert (request.source.directory, request.source.script) == (str(project), "src/x.py")
    assert request.experiment == "iris"


def test_source_is_the_scripts_folder_when_it_lies_elsewhere(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "Other Place"
    other.mkdir()
    (other / "x.py").touch()

    request = prepared(str(other / "x.py"))

    assert (request.source.directory, request.source.script) == (str(other), "x.py")
    assert request.experiment == "Other-Place"


def test_script_is_looked_up_from_the_source_directory_at_last(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert prepared("train.py", source="iris").source.script == "train.py"
    assert prepared("iris/train.py", source="iris").source.script == "train.py"


@pytest.mark.parametrize(
    ("words", "source", "code", "says"),
    [
        (("trian.py",), None, "NOT_FOUND", 'did you mean "train.py"?'),
        (("/etc/hostname",), ".", "INVALID_ARGUMENT", "--source"),
        (("train.py",), "nowhere", "INVALID_ARGUMENT", "nowhere does not exist"),
    ],
)
def test_script_that_can_not_be_meant(
    project: Path, words: tuple[str, ...], source: str | None, code: str, says: str
) -> None:
    options = {} if source is None else {"source": source}

    with pytest.raises(RunyardError) as raised:
        prepared(*words, **options)

    assert raised.value.code == code
    assert says in raised.value.message + raised.value.hint


def test_home_directory_is_not_sent_unasked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))

    with pytest.raises(SourceInvalid, match="home directory"):
        prepared("train.py")
    assert prepared("train.py", source=".").source.directory == str(project)


def test_environment_is_a_file_or_a_name(project: Path) -> None:
    (project / "requirements.txt").write_text("six==1.16.0\n")
    (project / "env.yml").write_text("dependencies:\n- pip:\n  - six==1.16.0\n")

    for name in ("requirements.txt", "env.yml", "./env.yml"):
        environment = prepared("train.py", env=name).config.environment
        assert isinstance(environment, Environment)
        assert environment.python.conda_dependencies.pip_packages == ["six==1.16.0"]
    assert prepared("train.py", env="six-env").config.environment == "six-env"
    assert prepared("train.py", env="six-env:2").config.environment == "six-env:2"
    with pytest.raises(NameInvalid, match="'six-env:new' has no number of a version"):
        prepared("train.py", env="six-env:new")


def test_downloaded_folder_is_meant_with_a_slash_and_the_stored_one_without(project: Path) -> None:
    made = Environment.from_docker_image("six-env", "debian:12")
    made.save_to_directory(project / "six-env")

    assert prepared("train.py", env="six-env/").config.environment == made
    assert prepared("train.py", env="six-env").config.environment == "six-env"
    (project / "other").mkdir()
    with pytest.raises(SpecInvalid, match=r"azureml_environment\.json is not there"):
        prepared("train.py", env="other/")


def test_environment_file_that_is_not_there_names_the_nearest(project: Path) -> None:
    (project / "requirements.txt").touch()

    with pytest.raises(EnvironmentNotFound, match=r'did you mean "requirements\.txt"\?'):
        prepared("train.py", env="requirement.txt")


def test_environment_file_of_another_kind_is_refused(project: Path) -> None:
    (project / "Pipfile").touch()

    with pytest.raises(SpecInvalid, match="Pipfile"):
        prepared("train.py", env="Pipfile")


def test_configuration_is_found_by_name_in_the_project_folder(project: Path) -> None:
    (project / ".azureml").mkdir()
    (project / ".azureml/gpu.runconfig").write_text("script: train.py\narguments: [a, 1]\n")

    request = prepared(config="gpu")

    assert request.source.script == "train.py"
    assert request.config.run_config is not None
    assert request.config.run_config.arguments == ["a", "1"]


def test_configuration_with_what_is_not_served_names_file_and_key(project: Path) -> None:
    (project / "c.runconfig").write_text("script: train.py\nnodeCount: 3\n")

    with pytest.raises(Unsupported, match=r"c\.runconfig: .*nodeCount"):
        prepared(config="c.runconfig")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("", ""),
        ("  python:\n    userManagedDependencies: true\n    interpreterPath: /opt/py", "/opt/py"),
        (
            "  python:\n    condaDependencies:\n      dependencies:\n      - pip: [six]",
            "of c.runconfig",
        ),
    ],
)
def test_header_says_which_environment_a_configuration_brings(
    project: Path, environment: str, words: str
) -> None:
    section = f"environment:\n{environment}\n" if environment else ""
    (project / "c.runconfig").write_text(f"script: train.py\n{section}")

    assert prepared(config="c.runconfig").environment == words


def test_command_has_no_script_and_the_current_folder(project: Path) -> None:
    request = prepared("make", "all", is_command=True)

    assert request.source.script == ""
    assert request.source.directory == str(project)
    assert request.config.command == [b"make", b"all"]


def test_interpreter_is_the_one_that_a_shell_here_would_find(project: Path) -> None:
    assert "PATH" in prepared("train.py").interpreter.why
    venv = project / ".venv/bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(INTERPRETER)

    assert ".venv" in prepared("train.py").interpreter.why


def docker(**options: object) -> RunRequest:
    """A request with options of containers."""
    return prepared("x.py", **options)  # type: ignore[arg-type]


def test_image_is_taken_alone_or_below_the_packages_of_a_file(project: Path) -> None:
    (project / "x.py").touch()
    (project / "r.txt").write_text("six==1.16.0\n")

    alone = docker(docker_image="debian:12", docker_arguments=("--ipc=host",)).config.environment
    below = docker(docker_image="python:3.12", env="r.txt").config.environment

    assert isinstance(alone, Environment)
    assert isinstance(below, Environment)
    sent, layered = alone.to_specification(), below.to_specification()
    assert sent.docker is not None
    assert layered.docker is not None
    assert (sent.kind, sent.docker.image) == ("user_managed", "debian:12")
    assert sent.docker.arguments == ("--ipc=host",)
    assert (layered.kind, layered.docker.image) == ("pip", "python:3.12")
    assert layered.requirements == ("six==1.16.0",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"docker_arguments": ("--ipc=host",)}, "--docker-arg needs a container"),
        ({"docker_arguments": ("--ipc=host",), "env": "r.txt"}, "--docker-arg needs a container"),
        ({"docker_image": "a", "env": "stored"}, "go with no stored environment"),
        ({"docker_image": "a", "env": "Dockerfile"}, "are two images"),
    ],
)
def test_options_of_containers_that_mean_nothing_are_refused(
    options: dict[str, object], says: str, project: Path
) -> None:
    for name, text in (("x.py", ""), ("r.txt", "six\n"), ("Dockerfile", "FROM a\n")):
        (project / name).write_text(text)

    with pytest.raises(RunyardError, match=says):
        docker(**options)
