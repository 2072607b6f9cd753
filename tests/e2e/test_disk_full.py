"""A run that fills its node's disk: it ends at once, and says so with advice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import small_disk
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.house import House, eventually

pytestmark = pytest.mark.slow

FILL = (
    "def fill():\n"
    "    with open('outputs/model', 'wb', buffering=0) as file:\n"
    "        while True: file.write(bytes(4096))\n"
)
FILES = {
    "loud.py": FILL + "fill()",
    "quiet.py": FILL + "try: fill()\nexcept OSError: raise SystemExit(4)",
    "small.py": "print('small')",
}


@pytest.fixture
def cramped(house: House) -> Iterator[House]:
    """A house whose agent has a small disk of its own; the daemon has another one."""
    if why := small_disk.lacking():
        pytest.skip(why)
    house.home.mkdir(mode=0o700)
    with small_disk.small_disk(house.home, 24 << 20, "agent"):
        yield house
        house.runyard("daemon", "stop", "--cancel-runs")


def end(house: House, *arguments: str, cwd: Path) -> tuple[int, dict[str, Any]]:
    """Exit status and cause of a run that is over when the command is."""
    status = house.runyard("run", *arguments, cwd=cwd).returncode
    newest = max(house.json("runs", "list"), key=lambda run: run["number"])
    return status, newest["cause"]


def test_run_that_fills_the_disk_ends_in_a_class_of_its_own(cramped: House) -> None:
    folder = cramped.project(FILES)

    loud_status, loud = end(cramped, "loud.py", cwd=folder)
    quiet_status, quiet = end(cramped, "quiet.py", cwd=folder)
    small = cramped.runyard("run", "small.py", cwd=folder)

    assert (loud_status, loud["class"]) == (1, "DISK_FULL")
    assert "No space left on device" in loud["message"]
    assert "df -h" in loud["advice"]
    assert (quiet_status, quiet["class"]) == (4, "DISK_FULL")
    assert (small.returncode, small.stdout) == (0, b"small\n")


def test_run_in_a_container_that_fills_the_disk_does_so_too(
    cramped: House, docker_engine: DockerEngine
) -> None:
    cramped.environment["DOCKER_HOST"] = docker_engine.url
    folder = cramped.project(FILES)
    options = (f"--docker-image={PYTHON_IMAGE}", "--docker-arg=--network=none")

    loud_status, loud = end(cramped, *options, "loud.py", cwd=folder)
    quiet_status, quiet = end(cramped, *options, "quiet.py", cwd=folder)

    assert (loud_status, loud["class"]) == (1, "DISK_FULL")
    assert "df -h" in loud["advice"]
    assert (quiet_status, quiet["class"]) == (4, "DISK_FULL")
    assert docker_engine.containers("label=runyard.run") == []


def test_run_that_waits_for_room_says_so_and_goes_on_with_it(cramped: House) -> None:
    source = FILL + "try: fill()\nexcept OSError: print('x' * (1 << 20))"
    folder = cramped.project({"chatty.py": source})
    run_id = cramped.submit("chatty.py", cwd=folder)

    eventually(
        lambda: any("disk was full" in text for text in cramped.show(run_id)["warnings"]),
        what="a warning of the full disk",
    )
    (model,) = cramped.home.glob(f"agent/runs/{run_id}.1/work/outputs/model")
    os.truncate(model, 0)
    done = cramped.runyard("runs", "wait", run_id)

    assert done.returncode == 0
    assert len(cramped.runyard("runs", "logs", run_id).stdout) == (1 << 20) + 1
