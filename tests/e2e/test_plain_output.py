"""What reaches files, pipes and programs: the script's bytes on stdout, one JSON with --json."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow

BOTH = (
    "import sys\n"
    "for n in range(200):\n"
    "    print('out', n)\n"
    "    print('err', n, file=sys.stderr)\n"
    "sys.stdout.write('no newline at the end')\n"
)
RUN_KEYS = {"run_id", "status", "exit_code", "attempt", "phases", "cause", "outcome", "experiment"}


def is_past_its_start(pid: int) -> bool:
    """Whether a command has threads, and so speaks to the daemon."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1


def interrupted(process: subprocess.Popen[bytes]) -> int:
    """Presses Ctrl-C as a person does: again, if nothing happens, as Python may drop one.

    It drops the KeyboardInterrupt that meets a callback of an import.
    """
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(2)
    raise AssertionError("five interrupts had no effect")


@pytest.fixture(scope="module")
def folder(shared_house: House) -> Path:
    return shared_house.project(
        {
            "both.py": BOTH,
            "hi.py": "print('hi')",
            "fail.py": "import sys; print('partial'); sys.exit('bad rate')",
            "sleep.py": "import time\nprint('up', flush=True)\ntime.sleep(100)",
        },
        name="output",
    )


def test_stdout_to_a_file_equals_that_of_python(shared_house: House, folder: Path) -> None:
    expected = subprocess.run(
        [sys.executable, "both.py"], cwd=folder, capture_output=True, check=True
    )
    out, err = shared_house.root / "out", shared_house.root / "err"

    with out.open("wb") as stdout, err.open("wb") as stderr:
        code = subprocess.run(
            shared_house.command("run", "both.py"),
            cwd=folder,
            env=shared_house.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            check=False,
        ).returncode

    assert code == 0
    assert out.read_bytes() == expected.stdout
    lines = err.read_bytes().splitlines(keepends=True)
    own = [line for line in lines if not line.startswith(b"err ")]
    assert b"".join(line for line in lines if line.startswith(b"err ")) == expected.stderr
    assert all(line.startswith((b"runyard: ", b"  ")) for line in own), own


def test_plain_in_a_pipe(shared_house: House, folder: Path) -> None:
    for args in (["run", "hi.py"], ["runs", "list"], ["compute", "list"], ["runs", "show", "last"]):
        done = shared_house.runyard(*args, cwd=folder)
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout + done.stderr, args
        assert b"\r" not in done.stdout + done.stderr, args


def test_no_wait_with_json_prints_the_id_and_nothing_else(
    shared_house: House, folder: Path
) -> None:
    done = shared_house.runyard("run", "--no-wait", "--json", "hi.py", cwd=folder)

    printed = json.loads(done.stdout)
    assert list(printed) == ["run_id"]
    assert printed["run_id"].startswith("output_")
    assert shared_house.runyard("runs", "wait", printed["run_id"]).returncode == 0


def test_json_moves_the_output_to_stderr_and_prints_one_object_at_the_end(
    shared_house: House, folder: Path
) -> None:
    done = shared_house.runyard("run", "--json", "fail.py", cwd=folder)

    result = json.loads(done.stdout)
    assert done.returncode == result["outcome"] == result["exit_code"] == 1
    assert b"partial\n" in done.stderr
    assert b"bad rate" in done.stderr
    assert result["status"] == "Failed"
    assert result["cause"]["class"] == "SCRIPT_ERROR"
    assert result["cause"]["advice"] is not None
    assert {"files_scanned", "bytes_scanned", "files_hashed", "bytes_hashed", "bytes_sent"} <= set(
        result["snapshot"]
    )


def test_show_has_the_promised_keys_while_it_runs_and_when_it_is_over(
    shared_house: House, folder: Path
) -> None:
    run_id = shared_house.submit("sleep.py", cwd=folder)
    running = shared_house.wait_for_state(run_id, "Running")
    shared_house.runyard("runs", "cancel", run_id)
    ended = shared_house.wait_for_state(run_id, "Canceled")

    assert set(running) >= RUN_KEYS
    assert (running["run_id"], running["status"]) == (run_id, "Running")
    assert (running["exit_code"], running["cause"], running["attempt"]) == (None, None, 1)
    assert ended["cause"]["class"] == "CANCELED"
    assert ended["outcome"] == 125
    assert ended["phases"][0]["phase"] == "snapshot"
    assert all(span["duration_s"] >= 0 for span in ended["phases"])


def test_every_listing_command_speaks_json(shared_house: House, folder: Path) -> None:
    run_id = shared_house.submit("hi.py", cwd=folder)
    shared_house.runyard("runs", "wait", run_id)

    for args in (
        ["runs", "list"],
        ["runs", "metrics", run_id],
        ["runs", "files", run_id],
        ["runs", "explain", run_id],
        ["runs", "wait", run_id],
        ["compute", "list"],
        ["compute", "show", "local"],
        ["environment", "list"],
        ["experiment", "list"],
        ["daemon", "status"],
        ["doctor"],
    ):
        assert shared_house.json(*args) is not None


def test_canceled_elsewhere_gives_125_and_says_so(shared_house: House, folder: Path) -> None:
    with shared_house.background("run", "sleep.py", cwd=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        run_id = shared_house.json("runs", "list")[0]["run_id"]
        assert shared_house.runyard("runs", "cancel", run_id).returncode == 0
        _, said = process.communicate(timeout=60)

    assert process.returncode == 125
    assert b"canceled" in said.splitlines()[-1]


def test_second_interrupt_leaves_at_once_and_says_how_to_follow(shared_house: House) -> None:
    stubborn = shared_house.project(
        {
            "train.py": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(100)"
        },
        name="stubborn",
    )
    # Long enough for the second signal to come first.
    arguments = ("run", "--cancel-grace", "10s", "train.py")
    with shared_house.background(*arguments, cwd=stubborn) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        run_id = shared_house.json("runs", "list")[0]["run_id"]
        process.send_signal(2)
        shared_house.wait_for_state(run_id, "CancelRequested")
        process.send_signal(2)
        _, said = process.communicate(timeout=10)

    assert process.returncode == 130
    assert b"cancelling" in said
    assert f"runyard runs logs -f {run_id}".encode() in said
    assert shared_house.wait_for_state(run_id, "Canceled")["signal"] == 9


def test_interrupted_wait_leaves_the_run_alone(shared_house: House, folder: Path) -> None:
    run_id = shared_house.submit("sleep.py", cwd=folder)
    shared_house.wait_for_state(run_id, "Running")

    with shared_house.background("runs", "logs", "-f", run_id) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == b"up\n"
        logs.send_signal(2)
        assert logs.wait(10) == 130
    with shared_house.background("runs", "wait", run_id) as waiting:
        eventually(lambda: is_past_its_start(waiting.pid), what="waiting")
        assert interrupted(waiting) == 130

    assert shared_house.show(run_id)["status"] == "Running"
    shared_house.runyard("runs", "cancel", run_id)


def test_reader_that_goes_away_does_not_end_the_run(shared_house: House) -> None:
    stop = shared_house.root / "reader-gone"
    folder = shared_house.project(
        {
            "train.py": "import os, sys, time\nprint('first', flush=True)\n"
            "while not os.path.exists(sys.argv[1]):\n    print('more')\n    time.sleep(0.01)\n"
        },
        name="reader",
    )
    with shared_house.background("run", "train.py", str(stop), cwd=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        run_id = shared_house.json("runs", "list")[0]["run_id"]
        process.stdout.close()
        process.wait(30)

    stop.touch()
    assert shared_house.wait_for_state(run_id, "Completed")["exit_code"] == 0


def test_last_line_always_says_how_it_ended(shared_house: House, folder: Path) -> None:
    for args, words in (
        (("hi.py",), b"completed"),
        (("fail.py",), b"exited with code 1"),
        (("--max-duration", "1s", "sleep.py"), b"timeout"),
    ):
        done = shared_house.runyard("run", *args, cwd=folder)
        last = done.stderr.splitlines()[-1]
        assert words in last, last
