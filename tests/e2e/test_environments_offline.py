"""Environments on a machine without any network: a channel and a folder of wheels on its disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.conda_channel import CondaChannel
from support.house import PACKAGE_INDEX_PREFIXES, RUNYARD, House
from support.packages import make_wheel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rn", "true"], check=False).returncode != 0,
        reason="this machine lets no user make a network namespace",
    ),
]

PROVES = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError as error:
    print(error.strerror)
import ryabove, ryleaf
print(ryabove.VERSION, ryleaf.VERSION, sys.prefix)
"""
CONDA = """
name: offline
channels:
  - {channel}
dependencies:
  - ryleaf=1
  - pip:
      - --no-index
      - --find-links={links}
      - ryabove
"""
PIP = """
name: offline
dependencies:
  - pip:
      - --no-index
      - --find-links={links}
      - ryabove
"""


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A folder of wheels; `ryabove` needs `ryleaf`."""
    folder = tmp_path / "links"
    folder.mkdir()
    make_wheel(folder, "ryabove", "1.0", requires=["ryleaf"])
    make_wheel(folder, "ryleaf", "3.0")
    return folder


@pytest.fixture
def offline(house: House) -> House:
    """An account whose every process is in a network namespace without an interface that is up."""
    for name in [one for one in house.environment if one.startswith(PACKAGE_INDEX_PREFIXES)]:
        del house.environment[name]
    house.environment["UV_CACHE_DIR"] = str(house.root / "uv")
    house.program = house.root / "runyard-offline"
    house.program.write_text(f'#!/bin/sh\nexec unshare -rn {RUNYARD} "$@"\n')
    house.program.chmod(0o755)
    return house


def test_conda_environment_with_a_pip_section(
    offline: House, links: Path, conda_channel: CondaChannel
) -> None:
    yaml = CONDA.format(channel=conda_channel.url, links=links)
    folder = offline.project({"train.py": PROVES, "environment.yml": yaml})

    done = offline.runyard("run", "--env", "environment.yml", "train.py", cwd=folder)

    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "Network is unreachable"
    # pip takes the release that conda brings.
    assert lines[1].startswith(f"1.0 1.0 {offline.home}/agent/environments/")


@pytest.mark.parametrize("name", ["requirements.txt", "environment.yml"])
def test_pip_environment(name: str, offline: House, links: Path) -> None:
    requirements = f"--no-index\n--find-links={links}\nryabove\n"
    text = requirements if name == "requirements.txt" else PIP.format(links=links)
    folder = offline.project({"train.py": PROVES, name: text})

    done = offline.runyard("run", "--env", name, "train.py", cwd=folder)

    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "Network is unreachable"
    assert lines[1].startswith(f"1.0 3.0 {offline.home}/agent/environments/")
