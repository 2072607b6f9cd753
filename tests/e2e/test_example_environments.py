"""The project of examples/environments, unchanged, in each kind of environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.conda_channel import CondaChannel
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.house import House

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "environments"
UV = str(Path(sys.executable).with_name("uv"))
TQDM = "tqdm==4.67.1"


BASE_IMAGE = """
FROM {image}
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN python -m ensurepip && ln -s pip3 /usr/local/bin/pip
"""


@pytest.fixture
def example() -> Iterator[House]:
    """A machine with the project on it."""
    house = House()
    shutil.copytree(EXAMPLE, house.root / "environments")
    yield house
    house.close()


def trained(house: House, *arguments: str) -> str:
    """Runs the example twice, with its metrics and its output; gives the interpreter it names."""
    folder = house.root / "environments"
    done = house.runyard("run", *arguments, "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    fitted, _, python = done.stdout.decode().strip().partition(", by ")
    assert fitted == "y = 3.00 x + 1.01"

    run = house.submit(*arguments, "train.py", cwd=folder)
    assert house.runyard("runs", "wait", run).returncode == 0
    losses = house.json("runs", "metrics", run)["loss"]
    into = house.root / "downloaded"
    house.runyard("runs", "download", run, "-o", str(into))
    (model,) = into.rglob("model.json")

    assert len(losses) == 500
    assert losses[-1] < losses[0] / 100
    assert json.loads(model.read_text())["slope"] == pytest.approx(3.0, abs=0.01)
    return python


def test_user_managed(example: House) -> None:
    venv = example.root / "mine"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, venv], check=True)
    subprocess.run([UV, "pip", "install", "-q", "--python", venv, TQDM], check=True)
    example.environment["VIRTUAL_ENV"] = str(venv)

    assert trained(example) == str(venv / "bin" / "python")


def test_pip(example: House) -> None:
    python = trained(example, "--env", "requirements.txt")

    assert python.startswith(f"{example.home}/agent/environments/")


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> CondaChannel:
    """A channel that stands for conda-forge, as far as the example needs it."""
    channel = CondaChannel(tmp_path_factory.mktemp("channel"))
    channel.add_python(tmp_path_factory.mktemp("python"))
    installed = tmp_path_factory.mktemp("tqdm")
    subprocess.run([UV, "pip", "install", "-q", "--target", installed, TQDM], check=True)
    channel.add_installed("tqdm", "4.67.1", installed)
    channel.index()
    return channel


def test_conda(example: House, channel: CondaChannel) -> None:
    example.home.mkdir(mode=0o700)
    (example.home / "daemon.toml").write_text(
        f'[environments.channel_mirrors]\n"conda-forge" = ["{channel.url}"]\n'
    )

    python = trained(example, "--env", "environment.yml")

    assert python.startswith(f"{example.home}/agent/environments/")


def test_docker(example: House, docker_engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(BASE_IMAGE.format(image=PYTHON_IMAGE))
    docker_engine.docker("build", "-q", "-t", "python:3.12-slim", str(tmp_path))
    example.environment["DOCKER_HOST"] = docker_engine.url

    python = trained(example, "--env", "Dockerfile", "--docker-arg=--network=host")

    assert python == "/usr/local/bin/python3"
