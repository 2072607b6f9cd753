"""Removing ended runs from the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from support.house import House

pytestmark = pytest.mark.slow


@pytest.fixture
def house() -> Iterator[House]:
    with contextlib.closing(House()) as opened:
        yield opened


def test_runs_are_removed_when_a_person_says_so_and_an_active_one_never(house: House) -> None:
    project = house.project({"a.py": "print('a')", "wait.py": "import time; time.sleep(600)"})
    active = house.submit("-e", "iris", "wait.py", cwd=project)
    ended = [house.submit("-e", "iris", "a.py", cwd=project) for _ in range(4)]
    for run_id in ended:
        house.wait_for_state(run_id, "Completed")

    unsure = house.runyard("runs", "delete", ended[0])
    refused = house.runyard("runs", "delete", "--yes", active)
    deleted = house.runyard("runs", "delete", "--yes", ended[0])
    no_reason = house.runyard("runs", "prune", "--yes")
    look = house.runyard("runs", "prune", "--keep-last", "1", "--dry-run")
    kept = house.runyard("runs", "prune", "--older-than", "1d", "--yes", "--json")
    pruned = house.runyard("runs", "prune", "--keep-last", "1", "--yes", "--json")
    left = house.json("runs", "list", "--filter", "experiment = iris")

    assert unsure.returncode == no_reason.returncode == 2
    assert b"--yes" in unsure.stderr
    assert refused.returncode == 1
    assert b"runyard runs cancel" in refused.stderr
    assert deleted.returncode == 0
    assert b"2 runs" in look.stderr
    assert json.loads(kept.stdout)["removed_runs"] == 0
    assert json.loads(pruned.stdout)["removed_runs"] == 2
    assert {run["run_id"] for run in left} == {active, ended[3]}
    assert not (house.home / "runs" / "iris" / ended[1]).exists()
    assert house.json("daemon", "status")["total_runs"] == 2
