"""`runyard runs` and its neighbours against a daemon that plays its part."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyardpb.v1 import metrics_pb2, runs_pb2
from support.command_line import STDERR, STDOUT, CommandLine, end_run
from support.fake_control import FakeControl

FIRST, SECOND = "iris_1700000001_00000001", "iris_1700000002_00000002"


@pytest.fixture
def two_runs(command: CommandLine, control: FakeControl, project: Path) -> FakeControl:
    command("run", "--tag", "a=1", "train.py", "--rate", "0.1")
    command("run", "--no-wait", "train.py")
    return control


def test_list_is_a_table_in_a_pipe(command: CommandLine, two_runs: FakeControl) -> None:
    done = command("runs", "list")

    header, newest, oldest = done.stdout.decode().splitlines()
    assert header.split() == ["RUN", "STATUS", "EXIT", "TARGET", "SUBMITTED", "TOOK", "WHAT"]
    assert newest.startswith(f"{SECOND}  Queued ")
    assert oldest.startswith(f"{FIRST}  Completed  0 ")
    assert oldest.endswith("12 s  train.py --rate 0.1")
    assert newest.index("local") == oldest.index("local") == header.index("TARGET")
    assert "\x1b" not in done.stdout.decode()


def test_list_as_json_is_newest_first(command: CommandLine, two_runs: FakeControl) -> None:
    shown = command("runs", "list", "--json").json

    assert [run["run_id"] for run in shown] == [SECOND, FIRST]
    assert [run["status"] for run in shown] == ["Queued", "Completed"]
    assert shown[0]["cause"] is None
    assert shown[0]["exit_code"] is None
    assert shown[0]["create_time"].endswith("Z")


def test_list_is_filtered_and_bounded(command: CommandLine, two_runs: FakeControl) -> None:
    def ids(*options: str) -> list[str]:
        return [run["run_id"] for run in command("runs", "list", "--json", *options).json]

    assert ids("--status", "completed") == [FIRST]
    assert ids("--tag", "a=1") == ids("--tag", "a") == [FIRST]
    assert ids("--tag", "a=2") == []
    assert ids("-n", "1") == [SECOND]


def test_list_of_nothing_says_how_to_begin(command: CommandLine, control: FakeControl) -> None:
    done = command("runs", "list")

    assert done.stdout == b""
    assert "submit one with `runyard run SCRIPT`" in done.stderr
    assert command("runs", "list", "--json").json == []


@pytest.mark.parametrize("reference", [FIRST, FIRST[:-1], "iris_1700000001", "00000001", "0000000"])
def test_run_is_found_by_id_and_by_beginnings(
    command: CommandLine, two_runs: FakeControl, reference: str
) -> None:
    done = command("runs", "show", "--json", reference)

    if reference == "0000000":
        assert done.code == 2
        assert f"2 runs begin with 0000000: {SECOND}, {FIRST}" in done.stderr
    else:
        assert done.json["run_id"] == FIRST


def test_last_is_the_newest_run(command: CommandLine, two_runs: FakeControl) -> None:
    assert command("runs", "show", "--json", "last").json["run_id"] == SECOND


def test_unknown_run_names_the_nearest(command: CommandLine, two_runs: FakeControl) -> None:
    done = command("runs", "show", "--json", "irsi_1700000001_0000001x")

    assert done.code == 3
    assert done.json["error"]["reason"] == "RUN_NOT_FOUND"
    assert done.json["error"]["metadata"]["nearest"] == FIRST
    assert command("runs", "show", "iris_1_00000000").code == 3


def test_show_gives_facts_cause_and_times(command: CommandLine, two_runs: FakeControl) -> None:
    run = two_runs.state.runs[next(iter(two_runs.state.runs))]
    end_run(run, exit_code=1, end_class=runs_pb2.End.CLASS_SCRIPT_ERROR, message="it \x1b[2J broke")

    said = command("runs", "show", FIRST).stdout.decode()

    assert said.startswith(f"{FIRST}\n  status       Failed\n  exit code    1\n")
    assert "  cause        it \\x1b[2J broke [SCRIPT_ERROR]\n" in said
    assert "  program      train.py --rate 0.1\n" in said
    assert "  tag          a = 1\n" in said
    assert "12 s" in said


def test_logs_keep_the_streams_apart(command: CommandLine, two_runs: FakeControl) -> None:
    two_runs.state.log = [(STDOUT, b"one\n"), (STDERR, b"oops\n"), (STDOUT, b"two\n")]

    done = command("runs", "logs", FIRST)

    assert done.stdout == b"one\ntwo\n"
    assert done.stderr == "oops\n"
    assert done.code == 0


def test_wait_gives_the_scripts_exit_code(command: CommandLine, two_runs: FakeControl) -> None:
    run = two_runs.state.runs[next(iter(two_runs.state.runs))]
    end_run(run, exit_code=5, end_class=runs_pb2.End.CLASS_SCRIPT_ERROR)

    done = command("runs", "wait", "--json", FIRST)

    assert done.code == done.json["outcome"] == 5
    assert done.last_line.endswith("the script exited with code 5")


def test_cancel_takes_several(command: CommandLine, two_runs: FakeControl) -> None:
    done = command("runs", "cancel", "--json", SECOND, FIRST)

    assert [run["status"] for run in done.json] == ["Canceled", "Canceled"]
    assert f"runyard: {FIRST} had ended" in done.stderr
    assert f"runyard: {SECOND} is: Canceled" in done.stderr


def test_explain_says_why(command: CommandLine, two_runs: FakeControl) -> None:
    assert command("runs", "explain", SECOND).stdout.decode() == (
        "it waits for 8 GPUs\n  local/host1: has 0 GPUs\n"
    )
    shown = command("runs", "explain", "--json", SECOND).json
    assert shown["queue_position"] == 1
    assert shown["verdicts"] == [{"node": "local/host1", "reasons": ["has 0 GPUs"]}]


def test_metrics_keep_their_shapes(command: CommandLine, two_runs: FakeControl) -> None:
    def point(name: str, number: float) -> metrics_pb2.MetricPoint:
        return metrics_pb2.MetricPoint(metric=name, scalar=metrics_pb2.MetricValue(number=number))

    row = metrics_pb2.MetricPoint(metric="row")
    row.row.columns["x"].integer = 3
    two_runs.state.points = [point("once", 0.25), point("loss", 2), point("loss", 1), row,
                             point("bad", float("nan"))]  # fmt: skip

    assert command("runs", "metrics", "--json", FIRST).json == {
        "once": 0.25,
        "loss": [2.0, 1.0],
        "row": {"x": [3]},
        "bad": "NaN",
    }
    assert command("runs", "metrics", "--json", FIRST, "once").json == {"once": 0.25}
    table = command("runs", "metrics", FIRST).stdout.decode().splitlines()
    assert [line.split() for line in table] == [
        ["METRIC", "VALUE", "COUNT", "LEAST", "MOST"],
        ["once", "0.25", "1"],
        ["loss", "1", "2", "1", "2"],
        ["row.x", "3", "1"],
        ["bad", "nan", "1"],
    ]


def test_files_are_listed_and_fetched(
    command: CommandLine, two_runs: FakeControl, project: Path
) -> None:
    (project / "model.pkl").write_bytes(b"weights")
    two_runs.state.files = {"outputs/model.pkl": b"weights", "logs/x.txt": b"log"}
    two_runs.state.file_records = [
        runs_pb2.RunFile(path=path, size_bytes=len(data))
        for path, data in two_runs.state.files.items()
    ]

    listed = command("runs", "files", "--json", FIRST).json
    default = command("runs", "download", FIRST)
    chosen = command("runs", "download", "--json", FIRST, "logs", "-o", "got").json
    missing = command("runs", "download", FIRST, "outputs/modle.pkl")

    assert [(f["path"], f["size_bytes"]) for f in listed] == [
        ("outputs/model.pkl", 7),
        ("logs/x.txt", 3),
    ]
    assert default.stdout.decode() == f"{FIRST}/outputs/model.pkl\n"
    assert (project / FIRST / "outputs/model.pkl").read_bytes() == b"weights"
    assert chosen == [{"path": "logs/x.txt", "saved_as": "got/logs/x.txt", "size_bytes": 3}]
    assert missing.code == 3
    assert "outputs/model.pkl" in missing.stderr


def test_compute_targets_are_shown(command: CommandLine, control: FakeControl) -> None:
    assert command("compute", "list").stdout.decode().splitlines()[1].split()[:3] == [
        "local",
        "local",
        "Succeeded",
    ]
    assert command("compute", "show", "--json", "local").json["nodes"][0]["slots"] == 2
    wrong = command("compute", "show", "locla")
    assert wrong.code == 3
    assert "local" in wrong.stderr


def test_experiments_are_listed(command: CommandLine, two_runs: FakeControl) -> None:
    assert [one["name"] for one in command("experiment", "list", "--json").json] == ["iris"]


def test_no_daemon_is_started_to_say_that_none_runs(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "nothing"))

    status = command("daemon", "status", "--json")
    stopped = command("daemon", "stop")

    assert status.code == 3
    assert status.json["is_running"] is False
    assert stopped.code == 0
    assert "there is nothing to stop" in stopped.stderr
    assert not list(tmp_path.iterdir())


def test_address_without_a_daemon_is_exit_5(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNYARD_ADDRESS", f"unix:{tmp_path}/none.sock")

    done = command("runs", "list")

    assert done.code == 5
    assert "[DAEMON_UNAVAILABLE]" in done.stderr
