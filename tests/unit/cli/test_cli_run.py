"""`runyard run` against a daemon that plays its part: what is sent, shown and returned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard_contract.errors import DiskFull
from runyardpb.v1 import runs_pb2
from support.command_line import ENVIRONMENT, STDERR, STDOUT, CommandLine, play
from support.fake_control import FakeControl

End = runs_pb2.End
RUN_ID = "iris_1700000001_00000001"


def test_output_goes_to_the_stream_it_was_written_to(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    play(control, ((STDOUT, b"out\xff"), (STDERR, b"err\n"), (STDOUT, b"\x1b]0;x\x07")))

    done = command("run", "train.py")

    assert done.stdout == b"out\xff\x1b]0;x\x07"
    assert "err\n" in done.stderr
    assert done.code == 0


def test_what_follows_the_script_belongs_to_it(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    raw = os.fsdecode(b"\xff\xfe")

    command("run", "-e", "mine", "train.py", "--help", "-e", "x", "--", "", raw)

    spec = control.state.created[0].spec
    assert spec.script.path == "train.py"
    assert list(spec.script.arguments) == [b"--help", b"-e", b"x", b"--", b"", b"\xff\xfe"]
    assert control.state.created[0].parent.endswith("/experiments/mine")


@pytest.mark.parametrize(
    ("typed", "argv"),
    [
        (["--", "make", "all"], ["make", "all"]),
        (["--tag", "a=b", "--", "make", "--", "-j2"], ["make", "--", "-j2"]),
        (["--tag=--=x", "--", "true"], ["true"]),
        (["--", "--version"], ["--version"]),
    ],
)
def test_words_after_two_dashes_are_a_command(
    command: CommandLine, control: FakeControl, project: Path, typed: list[str], argv: list[str]
) -> None:
    command("run", *typed)

    assert [word.decode() for word in control.state.created[0].spec.command.argv] == argv


def test_two_dashes_that_are_an_options_value_make_no_command(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    done = command("run", "--env", "--", "train.py")

    assert done.code == 2
    assert '"--" is no environment name' in done.stderr


def test_options_reach_the_daemon(
    command: CommandLine, control: FakeControl, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "m")
    options = (
        "--tag model=small --tag note= --priority 7 --max-duration 1h30m --cancel-grace 0 "
        "--cpus 1.5 --memory 2GiB --gpus 1 --merge-stderr --env-var MINE --env-var A=b=c"
    )

    command("run", *options.split(), "train.py")

    request = control.state.created[0]
    spec = request.spec
    assert dict(request.tags) == {"model": "small", "note": ""}
    assert spec.priority == 7
    assert spec.max_duration.ToSeconds() == 5400
    assert spec.HasField("cancel_grace")
    assert spec.cancel_grace.ToSeconds() == 0
    assert spec.resources == type(spec.resources)(
        cpu_millicores=1500, memory_bytes=2 << 30, gpu_count=1
    )
    assert spec.merge_stderr
    assert {v.name: v.value for v in spec.environment_variables} == {b"A": b"b=c"}
    assert (b"MINE", b"m") in {(v.name, v.value) for v in spec.caller_environment}


def test_variable_that_is_not_set_here_is_named(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    assert "--env-var NOPE: there is no such variable" in (
        command("run", "--env-var", "NOPE", "train.py").stderr
    )


def test_command_line_arguments_replace_those_of_the_configuration(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    (project / "c.runconfig").write_text("script: train.py\narguments: [--from, file]\n")

    command("run", "--config", "c.runconfig")
    command("run", "--config", "c.runconfig", "train.py", "--typed")

    given = [list(request.spec.script.arguments) for request in control.state.created]
    assert given == [[b"--from", b"file"], [b"--typed"]]


def test_header_names_run_target_and_interpreter(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    header = command("run", "train.py").stderr.splitlines()[0]

    assert header.startswith(f"runyard: {RUN_ID} on local with /")
    assert header.endswith(("(python3 on PATH)", "(runyard's own)"))


def test_no_wait_prints_the_id_and_follows_nothing(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    done = command("run", "--no-wait", "--json", "train.py")

    assert done.json == {"run_id": RUN_ID}
    assert done.stdout.endswith(b"}\n")
    assert control.state.calls["FollowRun"] == 0


def test_json_comes_at_the_end_and_the_scripts_output_on_stderr(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    play(control, ((STDOUT, b"loss 0.1\n"),), exit_code=7, end_class=End.CLASS_SCRIPT_ERROR,
         message="train.py exited with code 7", advice="look")  # fmt: skip

    done = command("run", "--json", "--tag", "a=b", "train.py")

    assert "loss 0.1\n" in done.stderr
    shown = done.json
    assert done.code == shown["outcome"] == shown["exit_code"] == 7
    assert (shown["run_id"], shown["status"], shown["experiment"]) == (RUN_ID, "Failed", "iris")
    assert shown["cause"]["class"] == "SCRIPT_ERROR"
    assert shown["cause"]["message"] == "train.py exited with code 7"
    assert shown["cause"]["advice"] == "look"
    assert shown["phases"][0]["phase"] == "script"
    assert shown["phases"][0]["duration_s"] == 12
    assert shown["start_time"] == "2023-11-14T22:15:00Z"
    assert shown["snapshot"]["files_scanned"] == 1
    assert shown["snapshot"]["bytes_sent"] > 0
    assert shown["tags"] == {"a": "b"}


@pytest.mark.parametrize(
    ("ending", "code", "says"),
    [
        ({"exit_code": 0}, 0, "completed after 12 s"),
        (
            {"exit_code": 3, "end_class": End.CLASS_SCRIPT_ERROR, "message": "x"},
            3,
            "the script exited with code 3",
        ),
        (
            {"exit_code": None, "signal": 11, "outcome": 139, "end_class": End.CLASS_SIGNAL},
            139,
            "signal 11 ended the script (exit code 139)",
        ),
        (
            {"exit_code": None, "outcome": 125, "end_class": End.CLASS_TIMEOUT},
            125,
            "timeout (exit code 125)",
        ),
        (
            {
                "exit_code": None,
                "outcome": 125,
                "end_class": End.CLASS_CANCELED,
                "state": runs_pb2.Run.STATE_CANCELED,
            },
            125,
            "was canceled after 12 s (exit code 125)",
        ),
    ],
)
def test_last_line_says_how_it_ended(
    command: CommandLine,
    control: FakeControl,
    project: Path,
    ending: dict[str, object],
    code: int,
    says: str,
) -> None:
    play(control, **ending)

    done = command("run", "train.py")

    assert done.code == code
    assert done.last_line.startswith(f"runyard: {RUN_ID} ")
    assert done.last_line.endswith(says)


def test_cause_and_fix_stand_before_the_last_line(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    play(
        control,
        exit_code=1,
        end_class=End.CLASS_MISSING_IMPORT,
        message="train.py raised ModuleNotFoundError: \x1b[2Jtorch",
        advice="install it",
    )

    lines = command("run", "train.py").stderr.splitlines()

    assert lines[-3:-1] == [
        "  cause: train.py raised ModuleNotFoundError: \\x1b[2Jtorch",
        "  fix: install it",
    ]


def test_failed_environment_shows_the_end_of_its_log(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    play(
        control,
        ((ENVIRONMENT, b"resolving\nno such package: flaskk\n"),),
        exit_code=None,
        outcome=125,
        end_class=End.CLASS_ENVIRONMENT,
    )

    done = command("run", "train.py")

    assert done.code == 125
    assert "    no such package: flaskk\n" in done.stderr


def test_verbose_shows_what_was_sent_and_where_the_time_went(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    said = command("run", "--verbose", "train.py").stderr

    assert "1 file (15 bytes) scanned, 1 file (15 bytes) hashed" in said
    assert f"source directory: {project}" in said
    assert "  script        " in said


def test_files_left_behind_are_listed_with_the_command_that_fetches_them(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    def follow(request: runs_pb2.FollowRunRequest):  # type: ignore[no-untyped-def]
        run = control.state.runs[request.name]
        run.state = runs_pb2.Run.STATE_COMPLETED
        run.workdir.file_count = 23
        run.workdir.files.add(path="result\x07.csv", size_bytes=2048)
        yield runs_pb2.FollowRunResponse(run=run)

    control.state.follow = follow
    control.state.file_records = [
        runs_pb2.RunFile(path="outputs/a", size_bytes=3),
        runs_pb2.RunFile(path="logs/stdout.txt", size_bytes=9),
    ]

    said = command("run", "train.py").stderr

    assert "wrote 23 files outside outputs/" in said
    assert "    result\\x07.csv  2 KiB\n    and 22 more\n" in said
    assert f"`runyard runs download {RUN_ID} --workdir`" in said
    assert "1 file in outputs/ (3 bytes)" in said


def test_results_that_cannot_be_listed_do_not_change_the_exit_code(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    control.state.fail_next["ListRunFiles"] = DiskFull("the disk is full")

    done = command("run", "train.py")

    assert done.code == 0
    assert "results could not be listed: the disk is full" in done.stderr
    assert done.last_line.endswith("completed after 12 s")


def test_daemon_that_is_lost_while_following_gives_125_and_the_way_back(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    control.state.fail_next["FollowRun"] = DiskFull("the disk is full")

    done = command("run", "train.py")

    assert done.code == 125
    assert "[DISK_FULL]" in done.stderr
    assert f"`runyard runs logs -f {RUN_ID}`" in done.stderr
