"""The built wheel in an empty environment outside the checkout: it is what users install."""

from __future__ import annotations

import os
import re
import shlex
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


def first_session() -> tuple[str, list[tuple[str, list[str]]]]:
    """The README's script, and its commands with the lines that each is said to print."""
    section = (CHECKOUT / "README.md").read_text().split("## A first session")[1]
    script = section.split("```python\n")[1].split("```")[0]
    console = section.split("```console\n")[1].split("```")[0]
    commands = []
    for block in console.split("$ ")[1:]:
        command, _, printed = block.partition("\n")
        commands.append((command, printed.split("\n")))
    return script, commands


def comparable(lines: list[str]) -> list[str]:
    """Lines without what is another at each run: ids, times, the interpreter's place."""
    found = []
    for line in lines:
        line = re.sub(r"\w+_\d{10}_[0-9a-f]{8}", "RUN", line)
        line = re.sub(r"with \S+ \(.*\)", "with PYTHON", line)
        line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+", "TIME", line)
        line = re.sub(r"\d+(\.\d+)? m?s\b", "DURATION", line)
        found.append(re.sub(r"\s+", " ", line).strip())
    return [line for line in found if line]


def test_wheel_runs_the_first_session_of_the_readme(house: House, installed: Path) -> None:
    script, commands = first_session()
    folder = house.project({"train.py": script}, name="ridge")
    environment = {**house.environment, "PATH": f"{installed}:{os.environ['PATH']}"}

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / "runyard", *shlex.split(line)[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    try:
        assert len(commands) >= 4
        for line, printed in commands:
            done = typed(line)
            assert comparable(done.stdout.split("\n")) == comparable(printed), line
            assert done.returncode == (3 if "exit 3" in line else 0), line
    finally:
        typed("runyard daemon stop --cancel-runs")


def test_base_install_adds_few_distributions(installed: Path) -> None:
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

    assert "runyard" in listed
    assert len(listed) <= MOST_DISTRIBUTIONS, listed
