"""What holds for someone who typed `python train.py` until now: each does as under python."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow


def run_python(*args: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def test_script_in_a_subfolder_finds_its_neighbours_and_the_roots_data(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "src/train.py": "import sibling\nprint(sibling.NAME, open('data/x.csv').read())",
            "src/sibling.py": "NAME = 'sibling'",
            "data/x.csv": "1,2,3",
        },
        name="subfolder",
    )

    done = shared_house.runyard("run", "src/train.py", cwd=folder)

    assert done.stdout == run_python("src/train.py", cwd=folder).stdout == b"sibling 1,2,3\n"
    assert done.returncode == 0


def test_streams_stay_apart_byte_for_byte(shared_house: House) -> None:
    script = (
        "import sys, os\n"
        "sys.stdout.buffer.write(bytes(range(256)))\n"
        "sys.stdout.flush()\n"
        "sys.stderr.buffer.write(b'to stderr\\n\\xff')\n"
    )
    folder = shared_house.project({"train.py": script}, name="streams")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == bytes(range(256))
    assert b"to stderr\n\xff" in done.stderr


def test_first_line_comes_while_the_script_still_runs(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import time\nprint('first', time.time())\ntime.sleep(20)"}, name="live"
    )
    shared_house.runyard("run", "--", "true", cwd=folder)

    with shared_house.background("run", "train.py", cwd=folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seen = time.time()
        process.send_signal(2)
        process.wait(30)

    assert line.startswith(b"first ")
    assert seen - float(line.split()[1]) < 0.3


def test_written_files_are_listed_and_the_users_folder_is_untouched(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "open('result.csv', 'w').write('42')"}, name="writes"
    )

    done = shared_house.runyard("run", "train.py", cwd=folder)

    said = done.stderr.decode()
    assert "result.csv" in said
    assert "--workdir" in said
    assert sorted(path.name for path in folder.iterdir()) == ["train.py"]
    run_id = shared_house.json("runs", "list")[0]["run_id"]
    fetched = shared_house.runyard("runs", "download", run_id, "--workdir", "-o", "got", cwd=folder)
    assert fetched.returncode == 0, fetched.stderr
    assert next((folder / "got").rglob("result.csv")).read_text() == "42"


@pytest.mark.parametrize("code", [7, 1, 255])
def test_exit_code_is_the_scripts(shared_house: House, code: int) -> None:
    folder = shared_house.project({"train.py": f"import sys; sys.exit({code})"}, name=f"exit{code}")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == code
    assert str(code) in done.stderr.decode().strip().splitlines()[-1]


def test_exception_shows_its_traceback_and_gives_1(shared_house: House) -> None:
    folder = shared_house.project({"train.py": "raise ValueError('bad rate')"}, name="raises")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 1
    assert b"ValueError: bad rate" in done.stderr
    run = shared_house.json("runs", "list")[0]
    assert run["cause"]["class"] == "SCRIPT_ERROR"
    assert "ValueError" in run["cause"]["message"]


def test_signal_gives_128_plus_its_number(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"}, name="signals"
    )

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.returncode == 128 + 11


def test_children_work_and_end_with_the_run(shared_house: House) -> None:
    script = (
        "import subprocess, sys, multiprocessing\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6*7)'],\n"
        "      capture_output=True, text=True).stdout)\n"
        "subprocess.Popen(['sleep', '987'], start_new_session=True)\n"
    )
    folder = shared_house.project({"train.py": script}, name="children")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"42\n\n"
    assert not shared_house.pids("sleep 987")


def test_own_help_and_options_belong_to_the_script(shared_house: House) -> None:
    script = (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--env')\n"
        "p.add_argument('-t')\nprint(p.parse_args())"
    )
    folder = shared_house.project({"train.py": script}, name="help")

    asked = shared_house.runyard("run", "train.py", "--help", cwd=folder)
    given = shared_house.runyard("run", "train.py", "--env", "mine", "-t", "x", cwd=folder)

    assert asked.stdout == run_python("train.py", "--help", cwd=folder).stdout
    assert given.stdout == b"Namespace(env='mine', t='x')\n"


def test_folder_with_spaces_and_other_letters(shared_house: House) -> None:
    name = "Ein Ordner für Ωmega 模型"
    folder = shared_house.project(
        {"mein skript.py": "import os; print(sorted(os.listdir()))"}, name=name
    )

    done = shared_house.runyard("run", "mein skript.py", cwd=folder)

    assert done.returncode == 0, done.stderr
    assert b"mein skript.py" in done.stdout
    assert shared_house.json("runs", "list")[0]["experiment"] == "Ein-Ordner-f-r-mega-"[:36].rstrip(
        "-"
    ) or shared_house.json("runs", "list")[0]["experiment"].startswith("Ein-Ordner-f-r-")


def test_arguments_reach_the_script_as_bytes(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]])"}, name="bytes"
    )
    arguments = ["with space", "quo\"te's", "new\nline", "", "-x", "--", "$(id)", "ü", b"\xff\xfe"]

    done = shared_house.runyard("run", "train.py", *arguments, cwd=folder)

    expected = [a if isinstance(a, bytes) else a.encode() for a in arguments]
    assert done.stdout.decode() == f"{expected}\n"


def test_reopening_the_streams_by_name_loses_nothing(shared_house: House) -> None:
    script = (
        "import sys\nprint('one', flush=True)\n"
        "open('/dev/stdout', 'w').write('two\\n')\nprint('three', flush=True)\n"
        "open('/dev/stderr', 'w').write('four\\n')\n"
    )
    folder = shared_house.project({"train.py": script}, name="reopen")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert done.stdout == b"one\ntwo\nthree\n"
    assert b"four\n" in done.stderr


def test_command_runs_as_it_is(shared_house: House) -> None:
    folder = shared_house.project({"data.txt": "hello"}, name="command")

    done = shared_house.runyard("run", "--", "sh", "-c", "cat data.txt; exit 3", cwd=folder)

    assert done.stdout == b"hello"
    assert done.returncode == 3


def test_standard_input_is_empty(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import sys; print(repr(sys.stdin.read()))"}, name="in"
    )

    assert shared_house.runyard("run", "train.py", cwd=folder).stdout == b"''\n"


def test_interrupt_cancels_the_run_and_gives_130(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(60)"}, name="interrupt"
    )

    with shared_house.background("run", "train.py", cwd=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(2)
        assert process.wait(40) == 130

    run = shared_house.json("runs", "list")[0]
    assert run["status"] == "Canceled"


def test_the_callers_python_and_variables_are_used(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "train.py": "import os, sys; print(sys.prefix); print(os.environ.get('MINE'), "
            "os.environ.get('OTHER'), os.environ.get('SECRET'))"
        },
        name="caller",
    )
    venv = folder.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)

    done = shared_house.runyard(
        "run",
        "--env-var",
        "MINE",
        "--env-var",
        "OTHER=x y",
        "train.py",
        cwd=folder,
        env={"VIRTUAL_ENV": str(venv), "MINE": "m", "SECRET": "s"},
    )

    assert done.stdout.decode().splitlines() == [str(venv), "m x y None"]


def test_merge_stderr_keeps_exact_order(shared_house: House) -> None:
    script = "import os\nfor i in range(500):\n    os.write(1 + i % 2, b'%d\\n' % i)\n"
    folder = shared_house.project({"train.py": script}, name="merge")

    done = shared_house.runyard("run", "--merge-stderr", "train.py", cwd=folder)

    assert done.stdout == b"".join(b"%d\n" % i for i in range(500))


def test_detached_run_is_waited_for_and_its_log_is_whole(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(5)"},
        name="no-wait",
    )
    run_id = shared_house.submit("train.py", cwd=folder)

    waited = shared_house.runyard("runs", "wait", run_id)
    logs = shared_house.runyard("runs", "logs", run_id)

    assert waited.returncode == 5
    assert logs.stdout == b"out\n"
    assert b"err\n" in logs.stderr
    shown = eventually(lambda: shared_house.show(run_id), what="shown")
    assert shown["exit_code"] == 5
    assert shown["attempt"] == 1
    assert {span["phase"] for span in shown["phases"]} >= {"waiting", "start", "script"}
