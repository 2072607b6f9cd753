"""Jobs that behave badly, one habit each: the run ends truly and leaves nothing behind."""

from __future__ import annotations

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "script", "stdout", "code"),
    [
        (
            "closes-stdout",
            "import os, sys\nprint('before', flush=True)\nos.close(1)\nos.close(2)\n"
            "sum(range(10))\nos._exit(4)",
            b"before\n",
            4,
        ),
        (
            "deletes-its-folder",
            "import os, shutil\nprint('before')\nshutil.rmtree(os.getcwd())\nprint('after')",
            b"before\nafter\n",
            0,
        ),
        (
            "ignores-sigterm",
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('done')",
            b"done\n",
            0,
        ),
        (
            "leaves-a-writer",
            "import os, subprocess\n"
            "subprocess.Popen(['sh', '-c', 'while :; do echo more; sleep 0.01; done'])\n"
            "os._exit(6)",
            None,
            6,
        ),
        (
            "double-fork",
            "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            "        os.execvp('sleep', ['sleep', '3217'])\n    os._exit(0)\n"
            "os.wait()\nprint('parent')",
            b"parent\n",
            0,
        ),
        (
            "many-files-open",
            "import os\nfor fd in range(3, 200):\n    os.dup2(1, fd)\nprint('ok')",
            b"ok\n",
            0,
        ),
        ("no-output", "", b"", 0),
        ("kills-its-group", "import os\nos.killpg(0, 9)", b"", 137),
    ],
)
def test_job_ends_truly_and_leaves_no_process(
    shared_house: House, name: str, script: str, stdout: bytes | None, code: int
) -> None:
    folder = shared_house.project({"train.py": script}, name=name)

    done = shared_house.runyard("run", "train.py", cwd=folder, limit_s=40)

    assert done.returncode == code, done.stderr.decode()
    if stdout is not None:
        assert done.stdout == stdout
    assert not shared_house.pids("3217")
    assert not shared_house.pids("echo more")


def test_time_limit_ends_a_run_and_is_named(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(100)"}, name="limit"
    )

    done = shared_house.runyard("run", "--max-duration", "1s", "train.py", cwd=folder)

    run = shared_house.json("runs", "list")[0]
    assert (done.returncode, run["outcome"], run["status"]) == (125, 125, "Failed")
    assert run["cause"]["class"] == "TIMEOUT"
    assert "--max-duration" in run["cause"]["advice"] + run["cause"]["message"]
    assert done.stdout == b"up\n"


def test_cancelled_job_gets_sigterm_and_time_to_save(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "train.py": "import signal, sys, time\n"
            "def save(*_):\n    open('outputs/saved.txt', 'w').write('saved')\n    sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\n"
            "while True: time.sleep(0.05)"
        },
        name="saves",
    )
    run_id = shared_house.submit("train.py", cwd=folder)
    eventually(lambda: shared_house.runyard("runs", "logs", run_id).stdout, what="up")

    shared_house.runyard("runs", "cancel", run_id)
    ended = shared_house.wait_for_state(run_id, "Canceled")

    assert ended["cause"]["class"] == "CANCELED"
    files = {file["path"] for file in shared_house.json("runs", "files", run_id)}
    assert "outputs/saved.txt" in files


def test_merged_streams_of_a_crash_end_with_the_traceback(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import lib\nprint('start')\nlib.go()", "lib.py": "def go():\n    1 / 0"},
        name="crash",
    )

    done = shared_house.runyard("run", "--merge-stderr", "train.py", cwd=folder)

    assert done.returncode == 1
    assert done.stdout.startswith(b"start\nTraceback")
    assert done.stdout.endswith(b"ZeroDivisionError: division by zero\n")
