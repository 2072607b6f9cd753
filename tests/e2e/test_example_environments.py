"""The project of examples/environments, unchanged, in each kind of environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.house import House

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "environments"
UV = str(Path(sys.executable).with_name("uv"))
TQDM = "tqdm==4.67.1"


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
