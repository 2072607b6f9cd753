"""The embedded daemon as its user meets it: one of it, its end, and what it refuses."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace")


@pytest.fixture
def folder(house: House) -> Path:
    return house.project({"train.py": "print('ran')"})


def test_ten_clients_at_once_start_one_daemon_and_one_agent(house: House, folder: Path) -> None:
    clients = [
        subprocess.Popen(
            house.command("run", "--no-wait", "--json", "train.py"),
            cwd=folder,
            env=house.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(10)
    ]
    ended = [client.communicate(timeout=120) for client in clients]

    assert [client.returncode for client in clients] == [0] * 10, [err for _, err in ended]
    run_ids = {json.loads(out)["run_id"] for out, _ in ended}
    assert len(run_ids) == 10
    for run_id in run_ids:
        assert house.runyard("runs", "wait", run_id).returncode == 0
    assert len(house.pids("runyard_daemon serve")) == 1
    assert len(house.pids("runyard_agent --local")) == 1


def test_status_starts_nothing_and_stop_leaves_nothing(house: House, folder: Path) -> None:
    before = house.runyard("daemon", "status", "--json")
    assert (before.returncode, json.loads(before.stdout)["is_running"]) == (3, False)
    assert house.runyard("run", "train.py", cwd=folder).returncode == 0
    running = house.json("daemon", "status")

    stopped = house.runyard("daemon", "stop", "--json")
    again = house.runyard("daemon", "stop")

    assert running["is_running"]
    assert running["pid"] in json.loads(stopped.stdout)["pids"]
    assert (stopped.returncode, again.returncode) == (0, 0)
    assert not house.pids("runyard")
    assert not (house.home / "daemon.json").exists()


def test_idle_daemon_ends_by_itself_with_its_agent(house: House, folder: Path) -> None:
    house.environment["RUNYARD_IDLE_END_S"] = "1"

    assert house.runyard("run", "train.py", cwd=folder).returncode == 0

    eventually(lambda: not house.pids("runyard"), limit_s=30, what="nothing left")
    assert house.json("runs", "list")[0]["status"] == "Completed"


def test_daemon_with_a_running_job_does_not_end(house: House) -> None:
    house.environment["RUNYARD_IDLE_END_S"] = "0.5"
    folder = house.project({"train.py": "import time; time.sleep(3); print('still')"})

    run_id = house.submit("train.py", cwd=folder)
    (daemon,) = house.pids("runyard_daemon serve")
    # No command looks at it until it has printed.
    eventually(lambda: list(house.home.glob("runs/*/*/*/stdout.txt")), what="the log")
    eventually(lambda: next(house.home.glob("runs/*/*/*/stdout.txt")).read_bytes(), what="its line")
    assert house.pids("runyard_daemon serve") in ([daemon], [])

    assert house.runyard("runs", "wait", run_id).returncode == 0
    starts = (house.home / "daemon.log").read_text().count('"event":"started"')
    assert starts <= 2


def test_second_daemon_on_the_same_data_names_the_first(house: House, folder: Path) -> None:
    house.runyard("run", "train.py", cwd=folder)
    (first,) = house.pids("runyard_daemon serve")

    second = house.runyard("daemon", "serve")

    assert second.returncode != 0
    assert str(first) in said(second)
    assert house.pids("runyard_daemon serve") == [first]


def test_database_of_a_newer_version_is_left_alone_with_advice(house: House, folder: Path) -> None:
    house.runyard("run", "train.py", cwd=folder)
    house.runyard("daemon", "stop")
    database = house.home / "runyard.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    content = database.read_bytes()

    done = house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 5, said(done)
    assert "schema 9999" in said(done)
    assert "fix:" in said(done)
    assert "Traceback" not in said(done)
    assert database.read_bytes() == content


def test_daemon_of_a_much_newer_version_refuses_with_what_to_do(house: House, folder: Path) -> None:
    house.runyard("run", "train.py", cwd=folder)
    record_path = house.home / "daemon.json"
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps({**record, "version": "9.9.9"}))

    refused = house.runyard("run", "train.py", cwd=folder)
    stopped = house.runyard("daemon", "stop")
    after = house.runyard("run", "train.py", cwd=folder)

    assert refused.returncode == 5
    assert "9.9.9" in said(refused)
    assert "runyard==9.9.9" in said(refused)
    assert stopped.returncode == 0, said(stopped)
    assert after.stdout == b"ran\n"


def test_home_that_can_not_be_written_names_it_and_the_variable(house: House, folder: Path) -> None:
    house.environment["RUNYARD_HOME"] = "/proc/runyard"

    done = house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 5
    assert "/proc/runyard" in said(done)
    assert "RUNYARD_HOME" in said(done)
    assert "Traceback" not in said(done)


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_home_open_to_others_is_refused(house: House, folder: Path, mode: int) -> None:
    house.home.mkdir()
    house.home.chmod(mode)

    done = house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 5
    assert f"chmod 700 {house.home}" in said(done)


def test_long_data_path_gets_a_private_socket_folder_elsewhere(house: House, folder: Path) -> None:
    house.home = house.root / ("long-" * 30) / "home"
    house.environment |= {"RUNYARD_HOME": str(house.home), "TMPDIR": str(house.root)}

    done = house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"ran\n", said(done)
    socket = Path(json.loads((house.home / "daemon.json").read_text())["socket"])
    assert len(os.fsencode(socket)) <= 100
    assert socket.parent.parent == house.root
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_default_home_is_below_the_users_data_folder(house: House, folder: Path) -> None:
    del house.environment["RUNYARD_HOME"]
    house.home = house.user_home / ".local/share/runyard" / os.uname().nodename

    assert house.runyard("run", "train.py", cwd=folder).stdout == b"ran\n"

    assert (house.home / "daemon.json").exists()
    assert stat.S_IMODE(house.home.stat().st_mode) == 0o700
