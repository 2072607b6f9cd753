"""Clients of different versions on one data directory: which daemon serves them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.house import House, eventually
from support.installation import Installation

pytestmark = pytest.mark.slow

LINES = 40
JOB = f"""
import os, sys, time
for number in range({LINES}):
    print(number, flush=True)
    while number == 9 and not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
print("the end", file=sys.stderr)
sys.exit(7)
"""
PRINTED = "".join(f"{number}\n" for number in range(LINES)).encode()


@pytest.fixture(scope="module")
def installed() -> Iterator[dict[str, Installation]]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    yield {v: Installation(root / v, v) for v in ("0.1.0", "0.2.0", "0.9.0")}
    shutil.rmtree(root)


@pytest.fixture
def folder(house: House) -> Path:
    return house.project({"job.py": JOB, "train.py": "print('ran')"})


def status(house: House) -> dict[str, Any]:
    found: dict[str, Any] = house.json("daemon", "status")
    return found


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace")


def test_newer_client_replaces_the_daemon_under_a_job_that_is_followed(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    go = house.root / "go"
    house.program = installed["0.1.0"].program
    with house.background("run", "job.py", str(go), cwd=folder) as follower:
        assert follower.stdout is not None
        head = b"".join(follower.stdout.readline() for _ in range(10))
        before = status(house)

        house.program = installed["0.2.0"].program
        (run,) = house.json("runs", "list")
        after = status(house)
        go.touch()
        tail, err = follower.communicate(timeout=60)

    assert (before["version"], after["version"]) == ("0.1.0", "0.2.0")
    assert house.pids("runyard_daemon serve") == [after["pid"]]
    assert follower.returncode == 7, err
    assert head + tail == PRINTED
    assert b"the end\n" in err
    logs = house.runyard("runs", "logs", run["run_id"])
    assert logs.stdout == PRINTED
    assert logs.stderr == b"the end\n"
    assert house.show(run["run_id"])["attempt"] == 1
    eventually(lambda: len(house.pids("runyard_agent --local")) == 1, what="one agent")

    # The older one is served, and leaves the newer daemon where it is.
    house.program = installed["0.1.0"].program
    assert house.runyard("run", "train.py", cwd=folder).stdout == b"ran\n"
    assert status(house)["pid"] == after["pid"]


def test_clients_of_two_versions_that_start_at_once_end_with_the_newer_daemon(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    clients = [
        subprocess.Popen(
            [installed[version].program, "run", "train.py"],
            cwd=folder,
            env=house.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for version in ("0.1.0", "0.2.0", "0.1.0", "0.2.0")
    ]

    ended = [client.communicate(timeout=120) for client in clients]

    assert [client.returncode for client in clients] == [0] * 4, ended
    assert [out for out, _ in ended] == [b"ran\n"] * 4
    assert status(house)["version"] == "0.2.0"
    assert len(house.pids("runyard_daemon serve")) == 1


def test_client_out_of_the_window_is_told_what_to_install(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    house.program = installed["0.9.0"].program
    house.runyard("run", "train.py", cwd=folder)
    newest = status(house)

    house.program = installed["0.1.0"].program
    refused = house.runyard("run", "train.py", cwd=folder)

    assert refused.returncode == 5
    assert "upgrade this client" in said(refused)
    assert "runyard==0.9.0" in said(refused)
    assert status(house)["pid"] == newest["pid"]


def test_daemon_that_a_person_serves_is_not_replaced(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    house.program = installed["0.1.0"].program
    with house.background("daemon", "serve") as served:
        eventually((house.home / "daemon.json").exists, what="it serves")

        house.program = installed["0.2.0"].program
        refused = house.runyard("run", "train.py", cwd=folder)
        house.program = installed["0.1.0"].program
        own = house.runyard("run", "train.py", cwd=folder)

        assert served.poll() is None
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=60)
    assert refused.returncode == 5
    assert "upgrade the daemon" in said(refused)
    assert "daemon serve" in said(refused)
    assert own.stdout == b"ran\n", said(own)


def test_where_none_runs_the_newest_interpreter_is_started(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    house.program = installed["0.2.0"].program
    house.runyard("run", "train.py", cwd=folder)
    house.runyard("daemon", "stop")

    house.program = installed["0.1.0"].program
    done = house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"ran\n", said(done)
    assert status(house)["version"] == "0.2.0"
    assert status(house)["interpreter"] == str(installed["0.2.0"].python)
    checks = {check["name"]: check["message"] for check in house.json("doctor")}
    assert "this client is runyard 0.1.0" in checks["platform"]
    assert "runyard 0.2.0" in checks["daemon"]
    assert "runyard 0.2.0" in checks["agent"]
    assert checks["recorded"] == f"{installed['0.2.0'].python}, runyard 0.2.0"
    assert f"SQLite {sqlite3.sqlite_version}" in checks["database"]


def test_newer_database_without_its_interpreter_names_the_version_to_install(
    house: House, folder: Path, installed: dict[str, Installation]
) -> None:
    house.program = installed["0.2.0"].program
    house.runyard("run", "train.py", cwd=folder)
    house.runyard("daemon", "stop")
    record = house.home / "last-daemon.json"
    gone = {**json.loads(record.read_text()), "interpreter": "/nowhere/bin/python"}
    record.write_text(json.dumps(gone))
    database = sqlite3.connect(house.home / "runyard.db")
    database.execute("PRAGMA user_version = 9999")
    database.close()

    house.program = installed["0.1.0"].program
    done = house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 5
    assert "runyard==0.2.0" in said(done)


def test_checkout_whose_sources_changed_replaces_its_own_daemon(house: House, folder: Path) -> None:
    checkout = Installation(house.root / "venv", "0.1.0", is_checkout=True)
    house.program = checkout.program
    house.runyard("run", "train.py", cwd=folder)
    before = status(house)

    os.utime(checkout.packages / "runyard" / "run.py")
    done = house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"ran\n", said(done)
    assert status(house)["version"] != before["version"]
    assert status(house)["pid"] != before["pid"]
