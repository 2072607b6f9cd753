"""Run: status, waiting, logs, metrics, tags and files, against a real server with fake state."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import (
    Experiment,
    Run,
    RunFailed,
    RunNotFound,
    ScriptRunConfig,
    SpecInvalid,
    Workspace,
    run_files,
    wait_all,
)
from runyard.channel import Connection
from runyard.follow import LogBytes, follow
from runyard.metrics import read_metrics
from runyard.records import RunRecord
from runyard_contract.errors import DaemonUnavailable, Draining, NameInvalid, RunFileNotFound
from runyard_contract.states import RunState
from runyardpb.v1 import logs_pb2, metrics_pb2, runs_pb2
from support.fake_control import FakeControl, Reviving

COMPLETED = runs_pb2.Run.STATE_COMPLETED
FAILED = runs_pb2.Run.STATE_FAILED
RUNNING = runs_pb2.Run.STATE_RUNNING
OUT, ERR = logs_pb2.LOG_SOURCE_STDOUT, logs_pb2.LOG_SOURCE_STDERR


@pytest.fixture
def run(workspace: Workspace, project: Path) -> Run:
    return Experiment(workspace, "iris").submit(ScriptRunConfig(script="train.py"))


def log(offset: int, data: bytes, stream: logs_pb2.LogSource.ValueType = OUT) -> object:
    chunk = logs_pb2.LogChunk(stream=stream, offset_bytes=offset, data=data)
    return runs_pb2.FollowRunResponse(log=chunk)


def state(control: FakeControl, value: runs_pb2.Run.State.ValueType) -> object:
    (run,) = control.state.runs.values()
    run.state = value
    return runs_pb2.FollowRunResponse(run=run)


def set_follow(control: FakeControl, *events: object) -> None:
    control.state.follow = lambda request: events  # type: ignore[assignment, return-value]


def test_output_is_framed_and_decoded_by_stream(
    control: FakeControl, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    set_follow(
        control,
        log(0, b"caf\xc3"),
        log(5, b"oops\n", ERR),
        log(10, b"\xa9\n"),
        runs_pb2.FollowRunResponse(),  # heartbeat
        state(control, COMPLETED),
    )

    details = run.wait_for_completion(show_output=True)

    said = capsys.readouterr().out
    assert said.startswith(f"RunId: {run.id}\n\nStreaming logs/stdout.txt\n=====")
    assert "cafoops\né\n" in said
    assert said.endswith(f"Execution Summary\n=================\nRunId: {run.id}\n\n")
    assert details["status"] == "Completed"


def test_failed_run_raises_with_cause_and_advice(control: FakeControl, run: Run) -> None:
    (message,) = control.state.runs.values()
    message.end.end_class = runs_pb2.End.CLASS_SCRIPT_ERROR
    message.end.exit_code = 7
    message.end.message = "the script ended with exit code 7"
    message.end.advice = "look at logs/stderr.txt"
    set_follow(control, state(control, FAILED))

    with pytest.raises(RunFailed, match="exit code 7") as caught:
        run.wait_for_completion(show_output=True)

    assert caught.value.hint == "look at logs/stderr.txt"
    assert caught.value.metadata == {
        "run_id": run.id,
        "state": "Failed",
        "end_class": "SCRIPT_ERROR",
        "exit_code": "7",
    }
    details = run.wait_for_completion(show_output=True, raise_on_error=False)
    assert details["error"]["exitCode"] == 7


def test_waiting_without_output_fetches_no_log(control: FakeControl, run: Run) -> None:
    details = run.wait_for_completion()

    assert details["status"] == "Completed"
    assert run.status == "Completed"
    assert control.state.calls["FollowRun"] == 1
    assert not control.state.calls["GetRun"] + control.state.calls["ListRuns"]


def test_waiting_for_many_reads_each_end_from_one_stream(control: FakeControl, run: Run) -> None:
    again = Run.get(run.experiment.workspace, run.id)

    assert wait_all([run, again]) == [run, again]

    assert [run.status, again.status] == ["Completed", "Completed"]
    assert control.state.calls["WatchRuns"] == 1


def test_waiting_for_many_reads_nothing_of_runs_that_were_submitted_before(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    experiment = Experiment(workspace, "iris")
    for _ in range(3):
        experiment.submit(ScriptRunConfig(script="train.py"))
    wait_all(experiment.get_runs())
    control.state.listed.clear()

    new = experiment.submit(ScriptRunConfig(script="train.py"))
    wait_all([new])

    assert control.state.listed == [[]]
    assert new.status == "Completed"


def test_waiting_for_many_names_a_run_that_was_removed(control: FakeControl, run: Run) -> None:
    del control.state.runs[str(run.record.name)]

    with pytest.raises(RunNotFound):
        wait_all([run])


def test_interrupt_while_streaming_leaves_the_run_alone(
    control: FakeControl, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from runyard.waiting import show_until_final

    def events() -> Iterator[LogBytes]:
        yield LogBytes("stdout", 0, b"line\n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show_until_final(run.id, events())

    assert f"runyard runs cancel {run.id}" in capsys.readouterr().out
    assert not control.state.calls["CancelRun"]


def test_follower_goes_on_at_the_next_byte_after_broken_connections(
    control: FakeControl, run: Run
) -> None:
    whole = bytes(range(256)) * 40
    asked: list[int] = []

    def serve(request: runs_pb2.FollowRunRequest) -> Iterator[object]:
        """Breaks off after some bytes, elsewhere each time."""
        asked.append(request.log_offset_bytes)
        offset = request.log_offset_bytes
        for _ in range(3):
            data = whole[offset : offset + 700]
            if data:
                yield log(offset, data)
            offset += len(data)
        if offset < len(whole):
            return  # without a final state, as a connection that breaks
        yield state(control, COMPLETED)

    control.state.follow = serve  # type: ignore[assignment]
    address = Reviving(control)

    with Connection(address) as connection:
        got, last = collect(connection, run)

    assert got == whole
    assert last.state == RunState.COMPLETED
    assert asked == [0, 2100, 4200, 6300, 8400]
    assert address.revivals == 4


def collect(connection: Connection, run: Run) -> tuple[bytes, RunRecord]:
    got = bytearray()
    last: RunRecord | None = None
    for event in follow(connection, run.record.name):
        if isinstance(event, LogBytes):
            assert event.offset_bytes == len(got)
            got += event.data
        else:
            last = event
    assert last is not None
    return bytes(got), last


def test_follower_gives_up_when_no_byte_comes_any_more(control: FakeControl, run: Run) -> None:
    set_follow(control)  # ends at once, without a final state
    address = Reviving(control)

    with (
        Connection(address) as connection,
        pytest.raises(DaemonUnavailable, match="too early"),
    ):
        collect(connection, run)

    assert address.revivals == 5


def test_given_address_that_nobody_serves_is_an_error_at_once(
    control: FakeControl, workspace: Workspace, run: Run
) -> None:
    control.stop()

    with pytest.raises(DaemonUnavailable, match=f"no daemon answers at unix:{control.socket}"):
        run.refresh()

    control.start()
    assert run.refresh().run_id == run.id


def test_logs_by_stream(control: FakeControl, run: Run) -> None:
    control.state.log = [(OUT, b"one\n"), (ERR, b"two\n"), (OUT, b"\xff\n")]

    assert run.get_logs() == "one\ntwo\n\ufffd\n"
    assert run.get_logs("stderr") == "two\n"
    with pytest.raises(NameInvalid, match="driver"):
        run.get_logs("driver")


def test_metrics_have_the_shapes_of_v1(control: FakeControl, run: Run) -> None:
    value, point = metrics_pb2.MetricValue, metrics_pb2.MetricPoint
    control.state.points = [
        point(metric="once", scalar=value(number=0.5)),
        point(metric="twice", scalar=value(integer=1)),
        point(metric="twice", scalar=value(number=math.inf)),
        point(metric="list", list=metrics_pb2.MetricList(values=[value(text="a")])),
        point(metric="row", row=metrics_pb2.MetricRow(columns={"x": value(integer=1)})),
        point(metric="row", row=metrics_pb2.MetricRow(columns={"x": value(integer=2)})),
        point(metric="flag", scalar=value(boolean=True)),
    ]

    assert run.get_metrics() == {
        "once": 0.5,
        "twice": [1, math.inf],
        "list": ["a"],
        "row": {"x": [1, 2]},
        "flag": True,
    }
    assert run.get_metrics("once") == {"once": 0.5}
    assert run.get_metrics("nothing") == {}


def test_tags_and_properties(control: FakeControl, run: Run) -> None:
    run.tag("plain")
    run.set_tags({"a.b": "1", "b": 2})  # type: ignore[dict-item]
    run.add_properties({"p": "x"})
    assert run.get_tags() == {"plain": "", "a.b": "1", "b": "2"}

    run.remove_tags(["b", "absent"])

    assert run.tags == {"plain": "", "a.b": "1"}
    assert run.get_properties()["p"] == "x"
    with pytest.raises(NameInvalid):
        run.tag("")


def test_files_are_added_and_fetched(control: FakeControl, run: Run, tmp_path: Path) -> None:
    large = bytes(range(256)) * 4096 * 9  # over 8 MiB: kept as chunks
    (tmp_path / "model.bin").write_bytes(large)
    run.upload_file("outputs/model.bin", tmp_path / "model.bin")
    run.upload_file("notes/a.txt", io.BytesIO(b"from a stream"))

    assert run.get_file_names() == ["outputs/model.bin", "notes/a.txt"]
    written = run.download_file("outputs/model.bin", tmp_path / "copy.bin")
    assert Path(written).read_bytes() == large
    assert run.download_files("notes/", tmp_path / "down") == [str(tmp_path / "down/notes/a.txt")]
    assert (tmp_path / "down/notes/a.txt").read_bytes() == b"from a stream"
    with pytest.raises(RunFileNotFound, match=r'did you mean "outputs/model\.bin"'):
        run.download_file("outputs/model.bi")
    with pytest.raises(SpecInvalid, match="binary"):
        run.upload_file("x", io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["FindMissingBlobs", "UploadBlobs", "AddRunFiles"])
@pytest.mark.parametrize("error", [Draining, DaemonUnavailable])
def test_file_is_added_over_a_daemon_that_is_replaced(
    control: FakeControl, run: Run, call: str, error: type[Draining | DaemonUnavailable]
) -> None:
    control.state.fail_next[call] = error("the daemon is stopping")
    address = Reviving(control)

    with Connection(address) as connection:
        run_files.upload(connection, str(run.record.name), "outputs/a.txt", io.BytesIO(b"x"))

    assert control.state.files == {"outputs/a.txt": b"x"}
    assert address.revivals == 1


@pytest.mark.parametrize("error", [Draining, DaemonUnavailable])
def test_file_and_metrics_are_read_over_a_daemon_that_is_replaced(
    control: FakeControl, run: Run, tmp_path: Path, error: type[Draining | DaemonUnavailable]
) -> None:
    run.upload_file("outputs/a.txt", io.BytesIO(b"x"))
    control.state.points = [
        metrics_pb2.MetricPoint(metric="m", scalar=metrics_pb2.MetricValue(integer=1))
    ]
    for call in ("ReadRunFile", "ReadMetricPoints"):
        control.state.fail_next[call] = error("the daemon is stopping")
    address, name = Reviving(control), str(run.record.name)

    with Connection(address) as connection:
        (file,) = run_files.list_files(connection, name)
        run_files.download(connection, name, file, str(tmp_path / "copy"))
        metrics = read_metrics(connection, name, None)

    assert (tmp_path / "copy").read_bytes() == b"x"
    assert metrics == {"m": 1}
    assert address.revivals == 2


def test_single_download_goes_to_the_current_folder_under_its_own_name(
    control: FakeControl, run: Run, project: Path
) -> None:
    run.upload_file("outputs/a.txt", io.BytesIO(b"x"))

    run.download_file("outputs/a.txt")

    assert (project / "a.txt").read_bytes() == b"x"


def test_runs_are_listed_newest_first_page_by_page(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    experiment = Experiment(workspace, "iris")
    made = [
        experiment.submit(ScriptRunConfig(script="train.py"), tags={"odd": str(n % 2)}).id
        for n in range(7)
    ]
    control.state.page_size = 2

    assert [run.id for run in experiment.get_runs()] == made[::-1]
    assert [run.id for run in experiment.get_runs(tags={"odd": "1"})] == made[5::-2]
    assert len(list(experiment.get_runs(tags="odd"))) == 7
    control.state.calls.clear()
    next(experiment.get_runs())
    assert control.state.calls["ListRuns"] == 1
    with pytest.raises(SpecInvalid, match='did you mean "Running"'):
        next(Run.list(experiment, status="runing"))


def test_run_is_found_by_its_id_and_an_unknown_one_names_the_nearest(
    workspace: Workspace, run: Run
) -> None:
    found = Run.get(workspace, run.id)

    assert (found.id, found.number, found.experiment.name) == (run.id, 1, "iris")
    with pytest.raises(RunNotFound, match="did you mean"):
        Run(Experiment(workspace, "iris"), "iris_1700000009_00000009")


def test_status_of_an_ended_run_is_not_asked_again(control: FakeControl, run: Run) -> None:
    state(control, COMPLETED)
    assert run.get_status() == "Completed"
    control.state.calls.clear()

    assert run.get_status() == "Completed"
    assert not control.state.calls


def test_cancel_and_explain(control: FakeControl, run: Run) -> None:
    assert "local/host1: has 0 GPUs" in str(run.explain())

    run.cancel()

    assert run.status == "Canceled"


def test_compute_targets(workspace: Workspace, control: FakeControl) -> None:
    from runyard.compute import ComputeTarget, ComputeTargetException

    assert list(workspace.compute_targets) == ["local"]
    status = ComputeTarget(workspace, "local").get_status()
    assert status.provisioning_state == "Succeeded"
    assert status.serialize()["nodeStateCounts"]["idleNodeCount"] == 1
    with pytest.raises(ComputeTargetException, match='did you mean "local"'):
        ComputeTarget(workspace, "locale")
