"""Who goes first when the slots are full, and what a waiting run is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.house import House

pytestmark = pytest.mark.slow

HOLDS = (
    "import os, sys, time\nprint('up', flush=True)\n"
    "while not os.path.exists(sys.argv[1]):\n    time.sleep(0.01)\n"
)


@pytest.fixture
def full(house: House) -> tuple[Path, Path, list[str]]:
    """A target whose slots are all taken until the file `stop` is there."""
    folder = house.project({"hold.py": HOLDS, "quick.py": "import time; print(time.time())"})
    stop = house.root / "stop"
    first = house.submit("hold.py", str(stop), cwd=folder)
    house.wait_for_state(first, "Running")
    (node,) = house.json("compute", "show", "local")["nodes"]
    holders = [first]
    holders += [house.submit("hold.py", str(stop), cwd=folder) for _ in range(node["slots"] - 1)]
    for run_id in holders:
        house.wait_for_state(run_id, "Running")
    return folder, stop, holders


def test_priority_goes_before_first_come_and_the_place_is_explained(
    house: House, full: tuple[Path, Path, list[str]]
) -> None:
    folder, stop, holders = full
    low = house.submit("--priority", "-5", "quick.py", cwd=folder)
    first = house.submit("quick.py", cwd=folder)
    second = house.submit("quick.py", cwd=folder)
    high = house.submit("--priority", "5", "quick.py", cwd=folder)
    in_order = [high, first, second, low]

    explained = [house.json("runs", "explain", run_id) for run_id in in_order]
    told = house.runyard("runs", "explain", second).stdout.decode()
    shown = house.json("compute", "show", "local")

    assert [one["queue_position"] for one in explained] == [1, 2, 3, 4]
    assert explained[0]["ahead"] == []
    assert [name.rpartition("/")[2] for name in explained[3]["ahead"]] == [high, first, second]
    assert "slot" in told
    assert high in told
    assert (shown["queued_runs"], shown["active_runs"]) == (4, len(holders))
    assert {house.show(run_id)["status"] for run_id in in_order} == {"Queued"}

    # One slot only: of two that are freed at once the starts are in no order among themselves.
    house.runyard("runs", "cancel", holders[0])
    for run_id in in_order:
        assert house.runyard("runs", "wait", run_id).returncode == 0
    started = [house.show(run_id)["start_time"] for run_id in in_order]
    assert started == sorted(started)
    stop.touch()


def test_waiting_run_is_canceled_at_once_and_makes_way(
    house: House, full: tuple[Path, Path, list[str]]
) -> None:
    folder, stop, _ = full
    waiting = house.submit("quick.py", cwd=folder)
    behind = house.submit("quick.py", cwd=folder)

    house.runyard("runs", "cancel", waiting)

    canceled = house.show(waiting)
    assert (canceled["status"], canceled["exit_code"]) == ("Canceled", None)
    assert house.runyard("runs", "wait", waiting).returncode == 125
    assert house.json("runs", "explain", behind)["queue_position"] == 1
    stop.touch()
    assert house.runyard("runs", "wait", behind).returncode == 0


def test_demand_for_cpus_makes_a_run_wait_for_room(
    house: House, full: tuple[Path, Path, list[str]]
) -> None:
    folder, stop, _ = full
    (node,) = house.json("compute", "show", "local")["nodes"]
    large = house.submit("--cpus", str(int(node["cpus"])), "quick.py", cwd=folder)
    impossible = house.submit("--memory", "60TiB", "quick.py", cwd=folder)

    told = house.runyard("runs", "explain", impossible).stdout.decode()

    assert "60" in told
    assert "memory" in told
    stop.touch()
    assert house.runyard("runs", "wait", large).returncode == 0
    assert house.show(impossible)["status"] == "Queued"
    house.runyard("runs", "cancel", impossible)
