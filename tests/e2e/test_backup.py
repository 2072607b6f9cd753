"""A backup of a working daemon, its loss, and the restore: nothing that was in it is lost, nothing
is executed twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.house import House, end_processes_naming, eventually

pytestmark = pytest.mark.slow

# Notes each execution in a file outside the data directory.
COUNTED = """
import os, sys
with open(sys.argv[1], "a") as file:
    file.write(os.environ["RUNYARD_RUN_ID"] + "\\n")
print("counted", sys.argv[2])
"""
WAITS = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    file.write(os.environ["RUNYARD_RUN_ID"] + "\\n")
print("began", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
os.makedirs("outputs", exist_ok=True)
open("outputs/end.txt", "w").write("ended\\n")
print("done")
"""


def executions(path: Path) -> dict[str, int]:
    """How often each run was executed."""
    lines = path.read_text().split() if path.exists() else []
    return {run_id: lines.count(run_id) for run_id in lines}


def test_restore_after_the_loss_of_the_machine_executes_nothing_twice(house: House) -> None:
    project = house.project({"counted.py": COUNTED, "waits.py": WAITS})
    counts, file = house.root / "counts", house.root / "b.backup"
    ended = [house.submit("counted.py", str(counts), str(n), cwd=project) for n in range(3)]
    for run_id in ended:
        house.wait_for_state(run_id, "Completed")
    # Active and waiting at the moment of the backup; the waiting one is executed before the loss.
    go = house.root / "go"
    active = house.submit("waits.py", str(counts), str(go), cwd=project)
    house.wait_for_state(active, "Running")
    held = house.submit("--cpus", "512", "counted.py", str(counts), "never", cwd=project)

    made = house.json("daemon", "backup", str(file))
    go.touch()
    house.wait_for_state(active, "Completed")
    later = house.submit("counted.py", str(counts), "later", cwd=project)
    house.wait_for_state(later, "Completed")
    before = executions(counts)
    end_processes_naming(str(house.home))  # as a machine that is lost: nobody has a last word
    shutil.rmtree(house.home)
    restored = house.json("daemon", "restore", str(file))

    assert made["run_count"] == restored["run_count"] == 5
    assert (restored["ended_runs"], restored["active_runs"]) == (1, 1)
    for number, run_id in enumerate(ended):
        assert house.show(run_id)["status"] == "Completed"
        log = house.runyard("runs", "logs", run_id)
        assert log.stdout == f"counted {number}\n".encode()
    assert house.show(held)["status"] == "Failed"
    assert "restored from a backup" in house.show(held)["cause"]["message"]
    lost = house.wait_for_state(active, "Failed")
    assert "restored from a backup" in lost["cause"]["message"]
    assert house.runyard("runs", "show", later).returncode == 3
    again = house.submit("counted.py", str(counts), "again", cwd=project)
    house.wait_for_state(again, "Completed")
    assert executions(counts) == before | {again: 1}


def test_restore_in_place_takes_up_what_agents_still_hold(house: House) -> None:
    project = house.project({"waits.py": WAITS})
    counts, file, go = house.root / "counts", house.root / "b.backup", house.root / "go"
    active = house.submit("waits.py", str(counts), str(go), cwd=project)
    house.wait_for_state(active, "Running")
    house.json("daemon", "backup", str(file))
    unknown = house.submit("waits.py", str(counts), str(go), cwd=project)
    house.wait_for_state(unknown, "Running")
    house.kill("runyard_daemon")
    eventually(lambda: not house.pids("runyard_daemon"), what="no daemon")

    refused = house.runyard("daemon", "restore", str(file))
    restored = house.json("daemon", "restore", "--force", str(file))
    found = eventually(
        lambda: (
            house.json("daemon", "status").get("found_attempts")
            if house.runyard("runs", "list").returncode == 0
            else None
        ),
        what="the attempt that the backup does not know",
    )
    go.touch()
    house.wait_for_state(active, "Completed")

    assert refused.returncode != 0
    assert b"--force" in refused.stderr
    assert Path(restored["replaced"], "runyard.db").exists()
    assert [entry["run"].rpartition("/")[2] for entry in found] == [unknown]
    assert house.runyard("runs", "logs", active).stdout == b"began\ndone\n"
    assert executions(counts) == {active: 1, unknown: 1}


def test_restore_is_refused_while_a_daemon_runs(house: House) -> None:
    file = house.root / "b.backup"
    house.json("daemon", "backup", str(file))

    refused = house.runyard("daemon", "restore", "--force", str(file))

    assert refused.returncode != 0
    assert b"runyard daemon stop" in refused.stderr
