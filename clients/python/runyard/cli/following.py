"""Follows a run to its end: its output, its state on a status line, Ctrl-C."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runyard_contract.errors import RunyardError
from runyard_contract.states import RunState, v1_word

from runyard.cli.failure import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED
from runyard.cli.interrupts import LeaveNow, on_interrupt
from runyard.cli.output import Output
from runyard.cli.render.status_line import StatusLine
from runyard.cli.render.text import clean
from runyard.cli.streams import ScriptStreams
from runyard.follow import ENVIRONMENT, LogBytes, follow

if TYPE_CHECKING:
    from runyard_contract.ids import RunName

    from runyard.channel import Connection
    from runyard.records import RunRecord

_ENVIRONMENT_TAIL_BYTES = 4096
_CANCEL_REASON = "Ctrl-C"


class Left(Exception):
    """The command ends before the run does. `exit_code` is the command's."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"left with {exit_code}")
        self.exit_code = exit_code


class Follower:
    """One run that this command follows.

    Args:
        connection: to the daemon.
        output: where the run's output and what is said about it go.
        run: the run.
        is_raw: the script's output is not filtered on a terminal.
        shows_environment: what building the environment prints is shown on stderr.
    """

    def __init__(
        self,
        connection: Connection,
        output: Output,
        run: RunName,
        *,
        is_raw: bool = False,
        shows_environment: bool = False,
    ) -> None:
        self._connection = connection
        self._output = output
        self._run = run
        self._streams = ScriptStreams(output, is_raw=is_raw)
        self._shows_environment = shows_environment
        self._environment_tail = b""
        self._has_output = False
        self.was_interrupted = False

    @property
    def environment_tail(self) -> str:
        """The last lines that building the environment printed and that were not shown."""
        if self._shows_environment:
            return ""
        return self._environment_tail.decode("utf-8", "replace").strip("\n")

    def follow(self, *, cancels: bool) -> RunRecord:
        """Passes the run's output on until its end and returns its final record.

        With `cancels` the first Ctrl-C cancels the run and waits; without, and at the second, Left
        is raised at once, as it is where nobody reads the output any more.
        """
        try:
            with on_interrupt(self._cancel if cancels else None):
                return self._follow()
        except LeaveNow:
            self._streams.finish()
            self._say_how_to_go_on()
            raise Left(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            self._say_how_to_go_on()
            raise Left(EXIT_BROKEN_PIPE) from None

    def _follow(self) -> RunRecord:
        last: RunRecord | None = None
        with StatusLine(self._output) as status:
            for event in follow(self._connection, self._run, include_environment_log=True):
                if isinstance(event, LogBytes):
                    self._pass_on(event, status)
                    continue
                last = event
                status.show(_doing(event))
        self._streams.finish()
        if last is None:
            raise AssertionError("following ends with the final record")
        return last

    def _pass_on(self, event: LogBytes, status: StatusLine) -> None:
        if event.stream != ENVIRONMENT:
            status.clear()
            self._streams.write(event.stream, event.data)
        elif self._shows_environment:
            status.clear()
            self._streams.write("stderr", event.data)
        else:
            tail = (self._environment_tail + event.data)[-_ENVIRONMENT_TAIL_BYTES:]
            self._environment_tail = tail
            lines = tail.decode("utf-8", "replace").split("\n")
            status.show("environment: " + next((line for line in reversed(lines) if line), ""))

    def _cancel(self) -> None:
        """Asks the daemon to end the run; runs in a signal handler, so another thread does it."""
        self.was_interrupted = True
        threading.Thread(target=self._send_cancel, name="runyard-cancel", daemon=True).start()

    def _send_cancel(self) -> None:
        try:
            self._output.say("runyard: cancelling the run; Ctrl-C again leaves at once")
            cancel(self._connection, self._run, _CANCEL_REASON)
        except RunyardError as error:
            self._output.say(f"runyard: the run could not be cancelled: {clean(error.message)}")
        except OSError:
            return  # nobody reads what is said

    def _say_how_to_go_on(self) -> None:
        say_how_to_follow(self._output, self._run.run)


def say_how_to_follow(output: Output, run_id: str) -> None:
    """Says that a run goes on without this command, where anybody still reads it."""
    try:
        output.say(
            f"runyard: {run_id} goes on; follow it with `runyard runs logs -f {run_id}`, "
            f"end it with `runyard runs cancel {run_id}`"
        )
    except OSError:
        return


def cancel(connection: Connection, run: RunName, reason: str) -> RunRecord:
    """Asks a run to end and returns it as it is now."""
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    from runyard._convert import run_record

    answer = connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.CancelRun,
        runs_pb2.CancelRunRequest(name=str(run), reason=reason),
    )
    return run_record(answer.run)


def _doing(run: RunRecord) -> str:
    """What a run does now, for the status line."""
    if run.status_message:
        return run.status_message
    if run.state is RunState.RUNNING:
        return "running, no output yet"
    return v1_word(run.state).lower()
