"""The built wheel in an empty environment outside the checkout: it is what users install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.house import House

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
# A base install adds these distributions and no more; each has its reason in ARCHITECTURE.md.
MOST_DISTRIBUTIONS = 24


def uv(*args: str) -> None:
    subprocess.run([Path(sys.executable).with_name("uv"), *args], check=True, capture_output=True)


@pytest.fixture
def installed(house: House) -> Path:
    uv("build", "--quiet", "--wheel", "--out-dir", str(house.root / "dist"), str(CHECKOUT))
    venv = house.root / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    wheel = next((house.root / "dist").glob("*.whl"))
    uv("pip", "install", "--quiet", "--python", str(venv / "bin/python"), str(wheel))
    return venv / "bin"


def test_wheel_runs_a_first_session_and_adds_few_distributions(
    house: House, installed: Path
) -> None:
    folder = house.project(
        {
            "train.py": "from runyard import Run\n"
            "Run.get_context().log('accuracy', 0.97)\nprint('hi')"
        }
    )
    environment = {**house.environment, "PATH": f"{installed}:{os.environ['PATH']}"}

    def runyard(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / "runyard", *args],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    try:
        done = runyard("run", "train.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "hi\n"
        run_id = runyard("runs", "list", "--json").stdout.split('"run_id": "')[1].split('"')[0]
        assert '"accuracy": 0.97' in runyard("runs", "metrics", "--json", run_id).stdout
    finally:
        runyard("daemon", "stop", "--cancel-runs")

    listed = subprocess.run(
        [
            installed / "python",
            "-c",
            "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(listed) <= MOST_DISTRIBUTIONS, listed
