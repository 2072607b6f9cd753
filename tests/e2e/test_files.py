"""Files of a run: what the script writes, uploads and changes, and how they are fetched."""

from __future__ import annotations

import hashlib

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow


def run(house: House, script: str, name: str, *options: str) -> str:
    folder = house.project({"train.py": script}, name=name)
    done = house.runyard("run", *options, "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    run_id: str = house.json("runs", "list")[0]["run_id"]
    return run_id


def test_outputs_logs_and_uploads_are_listed_and_fetched(shared_house: House) -> None:
    run_id = run(
        shared_house,
        "import os\nfrom runyard import Run\n"
        "open('outputs/model.bin', 'wb').write(os.urandom(1) + bytes(9_000_000))\n"
        "os.makedirs('outputs/plots')\nopen('outputs/plots/a.svg', 'w').write('<svg/>')\n"
        "open('logs/extra.txt', 'w').write('extra')\n"
        "open('mine.txt', 'w').write('mine')\n"
        "Run.get_context().upload_file('reports/mine.txt', 'mine.txt')\nprint('hi')\n",
        "files",
    )

    files = {file["path"]: file for file in shared_house.json("runs", "files", run_id)}
    assert set(files) == {
        "outputs/model.bin",
        "outputs/plots/a.svg",
        "logs/extra.txt",
        "logs/stdout.txt",
        "reports/mine.txt",
    }
    assert files["outputs/model.bin"]["size_bytes"] == 9_000_001

    done = shared_house.runyard("runs", "download", run_id, "-o", "got")
    assert done.returncode == 0, done.stderr
    got = shared_house.root / "got"
    assert (got / "outputs/plots/a.svg").read_text() == "<svg/>"
    assert (got / "outputs/model.bin").stat().st_size == 9_000_001
    single = shared_house.runyard("runs", "download", run_id, "reports/mine.txt", "-o", "one")
    assert single.returncode == 0, single.stderr
    assert (shared_house.root / "one/reports/mine.txt").read_text() == "mine"


def test_unknown_file_names_the_nearest(shared_house: House) -> None:
    run_id = run(shared_house, "open('outputs/model.pkl', 'w').write('x')", "nearest")

    done = shared_house.runyard("runs", "download", run_id, "outputs/modle.pkl")

    assert done.returncode == 3
    assert b"outputs/modle.pkl" in done.stderr
    assert b"outputs/model.pkl" in done.stderr


def test_new_and_changed_files_are_listed_without_caches_and_ignored_ones(
    shared_house: House,
) -> None:
    folder = shared_house.project(
        {
            "train.py": (
                "import os\nimport helper\n"
                "open('data.csv', 'a').write('more')\n"
                "open('debug.tmp', 'w').write('x')\n"
                "for n in range(25):\n    open('new%02d.txt' % n, 'w').write('x')\n"
            ),
            "helper.py": "",
            "data.csv": "1,2",
            "untouched.csv": "3",
            ".gitignore": "*.tmp\n",
        },
        name="leftovers",
    )

    done = shared_house.runyard("run", "train.py", cwd=folder)

    said = done.stderr.decode()
    run = shared_house.json("runs", "list")[0]
    listed = [file["path"] for file in run["workdir"]["files"]]
    assert run["workdir"]["file_count"] == 26
    assert len(listed) == 20
    assert "and 6 more" in said
    assert "data.csv" in listed
    assert not [path for path in listed if "__pycache__" in path or path.endswith(".tmp")]
    assert (folder / "data.csv").read_text() == "1,2"
    assert sorted(path.name for path in folder.iterdir()) == [
        ".gitignore",
        "data.csv",
        "helper.py",
        "train.py",
        "untouched.csv",
    ]


def test_run_that_wrote_nothing_lists_nothing(shared_house: House) -> None:
    folder = shared_house.project({"train.py": "print('x')"}, name="clean")

    done = shared_house.runyard("run", "train.py", cwd=folder)

    assert b"--workdir" not in done.stderr
    run = shared_house.json("runs", "list")[0]
    assert run["workdir"] is None or run["workdir"]["expire_time"] is None


def test_metrics_and_logs_arrive_while_the_script_runs(shared_house: House) -> None:
    stop = shared_house.root / "stop-live"
    folder = shared_house.project(
        {
            "train.py": "import os, sys, time\nfrom runyard import Run\n"
            "Run.get_context().log('loss', 0.25)\nprint('line')\n"
            "while not os.path.exists(sys.argv[1]):\n    time.sleep(0.01)\n"
        },
        name="live-metrics",
    )
    run_id = shared_house.submit("train.py", str(stop), cwd=folder)

    eventually(
        lambda: shared_house.json("runs", "metrics", run_id) == {"loss": 0.25}, what="metric"
    )
    eventually(
        lambda: shared_house.runyard("runs", "logs", run_id).stdout == b"line\n", what="line"
    )
    assert shared_house.show(run_id)["status"] == "Running"
    stop.touch()
    assert shared_house.runyard("runs", "wait", run_id).returncode == 0


def test_large_log_and_its_file_are_the_same_bytes(shared_house: House) -> None:
    run_id = run(
        shared_house,
        "for n in range(300_000):\n    print('line', n)\n",
        "large-log",
    )

    log = shared_house.runyard("runs", "logs", run_id).stdout
    done = shared_house.runyard("runs", "download", run_id, "logs/stdout.txt", "-o", "log")

    assert done.returncode == 0, done.stderr
    assert (
        hashlib.sha256(log).digest()
        == hashlib.sha256((shared_house.root / "log/logs/stdout.txt").read_bytes()).digest()
    )
    assert log.endswith(b"line 299999\n")


def test_logs_folder_of_the_job_does_not_hide_the_runs_own_logs(shared_house: House) -> None:
    run_id = run(shared_house, "open('logs/stdout.txt', 'w').write('fake')\nprint('true')", "clash")

    assert shared_house.runyard("runs", "logs", run_id).stdout == b"true\n"
    files = {file["path"] for file in shared_house.json("runs", "files", run_id)}
    assert files == {"logs/stdout.txt", "logs/stdout.job.txt"}
