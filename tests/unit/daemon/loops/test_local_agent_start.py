from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent import config
from runyard_contract.lockfile import lock_holder
from runyard_daemon.loops.local_agent import (
    LONGEST_PAUSE_S,
    AgentPlace,
    agent_environment,
    pause_s,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    yield root
    shutil.rmtree(root)


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_pauses_grow_to_a_bound_and_are_spread(failures: int, chance: float) -> None:
    assert 0 <= pause_s(failures, chance) <= LONGEST_PAUSE_S
    assert pause_s(failures, 1.0) <= pause_s(failures + 1, 1.0)


def test_the_agent_gets_no_variable_that_changes_what_python_imports() -> None:
    kept = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C"}

    given = {**kept, "PYTHONPATH": "/evil", "RUNYARD_HOME": "/x"}

    assert agent_environment(given) == kept


def test_the_agent_is_started_isolated_from_the_callers_folder() -> None:
    command = AgentPlace(Path("/home/d"), Path("/home/d/daemon.sock"), 7 << 30).command()

    assert command[:4] == [sys.executable, "-P", "-m", "runyard_agent"]
    assert command[4:] == [
        "--local",
        "--home", "/home/d/agent",
        "--daemon-socket", "/home/d/daemon.sock",
        "--blobs", "/home/d/blobs",
        "--environments-max-bytes", "7516192768",
        "--conda=auto",
        "--seal=auto",
    ]  # fmt: skip


def test_the_agent_is_told_how_it_provides_environments() -> None:
    place = AgentPlace(
        Path("/home/d"),
        Path("/home/d/daemon.sock"),
        channel_mirrors=(("conda-forge", "file:///srv/mirror"),),
        is_offline=True,
        seal="never",
    )

    settings = config.parse(place.command()[4:])

    assert settings.channel_mirrors == {"conda-forge": ["file:///srv/mirror"]}
    assert settings.is_offline
    assert settings.seal == "never"


def test_a_lock_names_its_holder_only_while_it_is_held(folder: Path) -> None:
    lock = folder / "agent.lock"
    assert lock_holder(lock) is None
    lock.write_text("4711\n")
    assert lock_holder(lock) is None

    held = os.open(lock, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert lock_holder(lock) == 4711
    os.close(held)
    assert lock_holder(lock) is None
