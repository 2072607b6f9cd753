"""`runyard run` on a terminal, and what signals and closed pipes do to it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyardpb.v1 import runs_pb2
from support.command_line import ENVIRONMENT, STDERR, STDOUT, end_run, play
from support.fake_control import FakeControl

RUNYARD = Path(sys.executable).with_name("runyard")
LIMIT_S = 30.0
RUN_ID = "iris_1700000001_00000001"
ERASE = b"\r\x1b[K"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", **(env or {})}
        self.process = subprocess.Popen(
            [RUNYARD, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env=environment,
        )
        os.close(slave)
        self.seen = b""

    def until(self, text: bytes) -> bytes:
        """Reads until the terminal has shown a text."""
        return self._read(lambda: text in self.seen)

    def end(self) -> bytes:
        """Reads to the end and returns all that was shown."""
        self._read(lambda: False)
        self.process.wait(LIMIT_S)
        return self.seen.replace(b"\r\n", b"\n")

    def _read(self, is_enough: Callable[[], bool]) -> bytes:
        deadline = time.monotonic() + LIMIT_S
        while not is_enough():
            left_s = deadline - time.monotonic()
            assert select.select([self._master], [], [], max(left_s, 0))[0], self.seen
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the last holder of the other side is gone
                data = b""
            if not data:
                break
            self.seen += data
        return self.seen

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        os.close(self._master)


@contextlib.contextmanager
def on_terminal(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, env=env)
    try:
        yield terminal
    finally:
        terminal.close()


class Calls(Counter[str]):
    """Counts calls, and wakes whoever waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.cancel_came = threading.Event()

    def __setitem__(self, name: str, count: int) -> None:
        super().__setitem__(name, count)
        if name == "CancelRun":
            self.cancel_came.set()


def log(stream: int, data: bytes) -> runs_pb2.FollowRunResponse:
    answer = runs_pb2.FollowRunResponse()
    answer.log.stream, answer.log.data = stream, data  # type: ignore[assignment]
    return answer


@pytest.fixture
def going_on(control: FakeControl) -> Iterator[threading.Event]:
    """Makes followed runs go on until they are cancelled, or the event is set."""
    go_on = threading.Event()
    calls = Calls()
    control.state.calls = calls

    def follow(request: runs_pb2.FollowRunRequest) -> Iterator[Any]:
        run = control.state.runs[request.name]
        run.state = runs_pb2.Run.STATE_RUNNING
        yield runs_pb2.FollowRunResponse(run=run)
        yield log(STDOUT, b"up\n")
        assert calls.cancel_came.wait(LIMIT_S)
        if go_on.is_set():
            end_run(run, exit_code=None, outcome=125, state=runs_pb2.Run.STATE_CANCELED)
            yield runs_pb2.FollowRunResponse(run=run)
        else:
            assert go_on.wait(LIMIT_S)

    control.state.follow = follow
    yield go_on
    calls.cancel_came.set()
    go_on.set()


def test_escapes_are_dropped_and_colours_pass(control: FakeControl, project: Path) -> None:
    play(control, ((STDOUT, b"a\x1b]0;title\x07b\x1b[31mred\x1b[2J"), (STDERR, b"\x1b[5nend")))

    with on_terminal("run", "train.py") as terminal:
        shown = terminal.end()

    assert b"ab\x1b[31mred" in shown
    assert b"title" not in shown
    # What the command says begins on a line of its own, without the script's colours.
    assert b"end\x1b[0m\nrunyard:" in shown or b"red\x1b[0m" in shown
    assert terminal.process.returncode == 0


def test_raw_drops_nothing(control: FakeControl, project: Path) -> None:
    play(control, ((STDOUT, b"a\x1b]0;title\x07b\n"),))

    with on_terminal("run", "--raw", "train.py") as terminal:
        assert b"a\x1b]0;title\x07b\n" in terminal.end()


def test_status_line_shows_what_is_waited_for_and_is_gone_before_output(
    control: FakeControl, project: Path
) -> None:
    go_on = threading.Event()

    def follow(request: runs_pb2.FollowRunRequest) -> Iterator[Any]:
        run = control.state.runs[request.name]
        run.status_message = "waits for \x1b[2J8 GPUs"
        yield runs_pb2.FollowRunResponse(run=run)
        assert go_on.wait(LIMIT_S)
        go_on.clear()
        yield log(ENVIRONMENT, b"resolving\n+ numpy 2.0\n")
        assert go_on.wait(LIMIT_S)
        yield log(STDOUT, b"first line\n")
        end_run(run)
        yield runs_pb2.FollowRunResponse(run=run)

    control.state.follow = follow
    with on_terminal("run", "train.py") as terminal:
        terminal.until(b"waits for \\x1b[2J8 GPUs")
        go_on.set()
        terminal.until(b"environment: + numpy 2.0")
        go_on.set()
        shown = terminal.end()

    before, _, after = shown.partition(b"first line\n")
    assert before.endswith(ERASE)
    assert ERASE not in after


def test_no_color_is_honoured(control: FakeControl, project: Path) -> None:
    with on_terminal("run", "train.py", env={"NO_COLOR": "1"}) as plain:
        assert b"\x1b[1m" not in plain.end()
    with on_terminal("run", "train.py") as coloured:
        assert b"\x1b[1m" in coloured.end()


def test_table_on_a_terminal_has_colours_and_cuts_free_text(
    control: FakeControl, project: Path
) -> None:
    with on_terminal("run", "train.py", "--long", "x" * 200) as first:
        first.end()
    with on_terminal("runs", "list", env={"COLUMNS": "100"}) as terminal:
        lines = terminal.end().decode().splitlines()

    assert len(lines) == 2
    assert "\x1b[32mCompleted\x1b[0m" in lines[1]
    assert RUN_ID in lines[1]
    assert lines[1].rstrip().endswith("…")


def test_first_interrupt_cancels_and_waits(
    control: FakeControl, project: Path, going_on: threading.Event
) -> None:
    going_on.set()
    process = subprocess.Popen(
        [RUNYARD, "run", "train.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()

    assert process.returncode == 130
    assert control.state.calls["CancelRun"] == 1
    assert said.rstrip().endswith(f"{RUN_ID} was canceled after 12 s (exit code 130)")


def test_second_interrupt_leaves_at_once_and_says_how_to_follow(
    control: FakeControl, project: Path, going_on: threading.Event
) -> None:
    process = subprocess.Popen(
        [RUNYARD, "run", "train.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        while b"cancelling" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()

    assert process.returncode == 130
    assert f"follow it with `runyard runs logs -f {RUN_ID}`" in said


def test_reader_that_goes_away_ends_the_command_quietly(
    control: FakeControl, project: Path
) -> None:
    play(control, ((STDOUT, b"x" * 4096 + b"\n"),) * 200)
    process = subprocess.Popen(
        [RUNYARD, "run", "train.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read().decode()

    assert process.returncode == 141
    assert "Traceback" not in said
    assert "Error" not in said
    assert f"follow it with `runyard runs logs -f {RUN_ID}`" in said
