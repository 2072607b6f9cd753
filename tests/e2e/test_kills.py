"""kill -9 of daemon, agent, both and supervisor in the middle of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow

# Prints numbered lines until the file that it is given appears, then ends with code 9.
COUNTING = (
    "import os, sys, time\n"
    "n = 0\n"
    "while not os.path.exists(sys.argv[1]):\n"
    "    print(n)\n"
    "    n += 1\n"
    "    time.sleep(0.002)\n"
    "print('last', n)\n"
    "sys.exit(9)\n"
)
DAEMON, AGENT, SUPERVISOR = "runyard_daemon", "runyard_agent --local", "runyard-supervisor"


def start_counting(house: House) -> tuple[str, Path]:
    folder = house.project({"train.py": COUNTING})
    stop = house.root / "stop"
    run_id = house.submit("train.py", str(stop), cwd=folder)
    eventually(lambda: house.runyard("runs", "logs", run_id).stdout.count(b"\n") > 20, what="log")
    return run_id, stop


def check_whole(house: House, run_id: str) -> None:
    waited = house.runyard("runs", "wait", run_id)
    lines = house.runyard("runs", "logs", run_id).stdout.decode().split("\n")
    assert waited.returncode == 9, waited.stderr.decode()
    count = int(lines[-2].split()[1])
    assert lines == [*(str(n) for n in range(count)), f"last {count}", ""]
    assert house.show(run_id)["attempt"] == 1


@pytest.mark.parametrize(
    "victims",
    [(DAEMON,), (AGENT,), (DAEMON, AGENT), (AGENT, DAEMON)],
    ids=["daemon", "agent", "daemon-agent", "agent-daemon"],
)
def test_run_goes_on_with_whole_log_and_true_exit_code(house: House, victims: tuple[str]) -> None:
    run_id, stop = start_counting(house)

    for victim in victims:
        assert house.kill(victim)
    shown = house.show(run_id)
    stop.touch()

    assert shown["status"] in {"Running", "NotResponding"}
    check_whole(house, run_id)


def test_run_that_ends_while_daemon_and_agent_are_dead_is_not_lost(house: House) -> None:
    run_id, stop = start_counting(house)
    bundle = next(house.home.glob("agent/runs/*"))

    house.kill(DAEMON)
    house.kill(AGENT)
    stop.touch()
    eventually((bundle / "exit.json").exists, what="exit record")

    check_whole(house, run_id)


def test_killed_again_and_again_loses_nothing(house: House) -> None:
    run_id, stop = start_counting(house)

    for round_ in range(6):
        assert house.kill(AGENT if round_ % 2 else DAEMON)
        house.show(run_id)
        eventually(lambda: house.pids(AGENT), what="agent restarted")
    stop.touch()

    check_whole(house, run_id)


def test_followers_go_on_over_a_killed_daemon(house: House) -> None:
    folder = house.project({"train.py": COUNTING})
    stop = house.root / "stop"
    with house.background("run", "train.py", str(stop), cwd=folder) as process:
        assert process.stdout is not None
        head = process.stdout.read(200)
        assert house.kill(DAEMON)
        stop.touch()
        rest = process.stdout.read()
        assert process.wait(60) == 9

    lines = (head + rest).decode().split("\n")
    count = int(lines[-2].split()[1])
    assert lines == [*(str(n) for n in range(count)), f"last {count}", ""]


def test_killed_supervisor_is_a_clear_end_and_leaves_no_process(house: House) -> None:
    script = (
        "import subprocess, time\nsubprocess.Popen(['sleep', '654'], start_new_session=True)\n"
        "print('up', flush=True)\ntime.sleep(654)\n"
    )
    folder = house.project({"train.py": script})
    run_id = house.submit("train.py", cwd=folder)
    eventually(lambda: house.runyard("runs", "logs", run_id).stdout, what="log")
    state = next(house.home.glob("agent/runs/*/state.json")).read_text()
    supervisor = int(state.split('"supervisor_pid":')[1].split(",")[0].strip(" }"))

    os.kill(supervisor, signal.SIGKILL)
    waited = house.runyard("runs", "wait", run_id)

    assert waited.returncode == 125
    shown = house.show(run_id)
    assert shown["status"] == "Failed"
    assert shown["cause"]["class"] == "SUPERVISOR_LOST"
    assert not house.pids("654")
    assert house.runyard("runs", "logs", run_id).stdout == b"up\n"
    assert house.runyard("run", "--", "true", cwd=folder).returncode == 0


def test_daemon_stop_lets_runs_go_on_and_the_next_command_adopts_them(house: House) -> None:
    run_id, stop = start_counting(house)

    assert house.runyard("daemon", "stop").returncode == 0
    assert not house.pids(DAEMON)
    assert not house.pids(AGENT)
    stop.touch()

    check_whole(house, run_id)


def test_daemon_stop_with_cancel_runs_ends_them(house: House) -> None:
    run_id, _ = start_counting(house)

    assert house.runyard("daemon", "stop", "--cancel-runs").returncode == 0

    assert house.show(run_id)["status"] == "Canceled"


def test_nasty_jobs_leave_no_process(house: House) -> None:
    script = (
        "import os, shutil, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '765'])\n"
        "    os._exit(0)\n"
        "print('before', flush=True)\n"
        "os.close(1)\n"
        "shutil.rmtree(os.getcwd())\n"
    )
    folder = house.project({"train.py": script})

    done = house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"before\n"
    assert not house.pids("765")
    assert house.runyard("run", "--", "true", cwd=folder).returncode == 0


def test_job_that_ignores_sigterm_ends_after_the_grace_period(house: House) -> None:
    script = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(100)\n"
    )
    folder = house.project({"train.py": script})

    done = house.runyard(
        "run", "--max-duration", "1s", "--cancel-grace", "1s", "train.py", cwd=folder
    )

    assert done.returncode == 125
    run = house.json("runs", "list")[0]
    assert run["cause"]["class"] == "TIMEOUT"
