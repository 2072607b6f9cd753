"""Follows a run to its end: its output, its state on a status line, Ctrl-C."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runyard.cli.failure import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, Left
from runyard.cli.interrupts import LeaveNow, on_interrupt
from runyard.cli.output import Output
from runyard.cli.render.status_line import StatusLine
from runyard.cli.render.text import clean
from runyard.cli.streams import ScriptStreams
from runyard.follow import ENVIRONMENT, LogBytes, follow
from runyard_contract.errors import RunyardError
from runyard_contract.states import RunState, v1_word

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.records import RunRecord
    from runyard.run import Run
    from runyard_contract.ids import RunName

_ENVIRONMENT_TAIL_BYTES = 4096
_CANCEL_REASON = "Ctrl-C"
_CANCEL_SEND_S = 1.0


class Follower:
    """One run that this command follows.

    Args:
        connection: to the daemon.
        run: the run's name.
        output: where the run's output and what is said about it go.
        is_raw: the script's output is not filtered on a terminal.
        environment_stream: where what building the environment prints is shown, "stdout" or
            "stderr"; empty: its last line on the status line only.
    """

    def __init__(
        self,
        connection: Connection,
        run: RunName,
        output: Output,
        *,
        is_raw: bool = False,
        environment_stream: str = "",
    ) -> None:
        self._canceling: threading.Thread | None = None
        self._connection = connection
        self._run = run
        self._output = output
        self._streams = ScriptStreams(output, is_raw=is_raw)
        self._environment_stream = environment_stream
        self._environment_tail = b""
        self._status = StatusLine(output)
        self.was_interrupted = False

    @property
    def environment_tail(self) -> str:
        """The last lines that building the environment printed and that were not shown."""
        if self._environment_stream:
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
            if self._canceling is not None:  # a promise was printed: give it time to be sent
                self._canceling.join(_CANCEL_SEND_S)
            self._say_how_to_go_on()
            raise Left(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            self._say_how_to_go_on()
            raise Left(EXIT_BROKEN_PIPE) from None

    def _follow(self) -> RunRecord:
        last: RunRecord | None = None
        with self._status:
            for event in follow(self._connection, self._run, include_environment_log=True):
                if isinstance(event, LogBytes):
                    self._pass_on(event)
                    continue
                last = event
                self._status.show(_doing(event))
        self._streams.finish()
        if last is None:
            raise AssertionError("following ends with the final record")
        return last

    def _pass_on(self, event: LogBytes) -> None:
        if event.stream != ENVIRONMENT:
            self._status.clear()
            self._streams.write(event.stream, event.data)
        elif self._environment_stream:
            self._status.clear()
            self._streams.write(self._environment_stream, event.data)
        else:
            tail = (self._environment_tail + event.data)[-_ENVIRONMENT_TAIL_BYTES:]
            self._environment_tail = tail
            lines = tail.decode("utf-8", "replace").split("\n")
            self._status.show(
                "environment: " + next((line for line in reversed(lines) if line), "")
            )

    def _cancel(self) -> None:
        """Asks the daemon to end the run; runs in a signal handler, so another thread does it."""
        self.was_interrupted = True
        self._canceling = threading.Thread(
            target=self._send_cancel, name="runyard-cancel", daemon=True
        )
        self._canceling.start()

    def _send_cancel(self) -> None:
        self._status.clear()
        try:
            self._output.say("runyard: cancelling the run; Ctrl-C again leaves at once")
            cancel_run(self._connection, self._run, _CANCEL_REASON)
        except RunyardError as error:
            self._output.say(f"runyard: the run could not be cancelled: {clean(error.message)}")
        except OSError:
            return  # nobody reads what is said

    def _say_how_to_go_on(self) -> None:
        say_how_to_follow(self._output, self._run.run)


def pass_log_on(
    run: Run, output: Output, *, is_live: bool, of_environment: bool, is_raw: bool
) -> int:
    """Prints a run's log, with `is_live` until it is complete; returns the exit code."""
    from runyard.follow import MERGED, STDOUT, read_log

    streams = ScriptStreams(output, is_raw=is_raw)
    connection = run.experiment.workspace.connection
    source = ENVIRONMENT if of_environment else MERGED
    try:
        with on_interrupt(None):
            for piece in read_log(connection, run.record.name, source, is_live=is_live):
                streams.write(STDOUT if of_environment else piece.stream, piece.data)
            streams.finish()
    except LeaveNow:
        streams.finish()
        return EXIT_INTERRUPTED
    return 0


def wait_for(run: Run, output: Output) -> RunRecord:
    """Waits until a run has ended and returns its final record; Ctrl-C raises Left."""
    from runyard.follow import wait_until_final

    if run.record.is_final:
        return run.record
    connection = run.experiment.workspace.connection
    try:
        with on_interrupt(None), StatusLine(output) as status:
            status.show(f"waiting for {run.id}")
            return wait_until_final(connection, run.record.name)
    except LeaveNow:
        say_how_to_follow(output, run.id)
        raise Left(EXIT_INTERRUPTED) from None


def say_how_to_follow(output: Output, run_id: str) -> None:
    """Says that a run goes on without this command, where anybody still reads it."""
    try:
        output.say(
            f"runyard: {run_id} goes on; follow it with `runyard runs logs -f {run_id}`, "
            f"end it with `runyard runs cancel {run_id}`"
        )
    except OSError:
        return


def cancel_run(connection: Connection, run: RunName, reason: str) -> None:
    """Asks a run to end. As Run.cancel, without what else a Run brings at start-up."""
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.CancelRun,
        runs_pb2.CancelRunRequest(name=str(run), reason=reason),
    )


def _doing(run: RunRecord) -> str:
    """What a run does now, for the status line."""
    if run.status_message:
        return run.status_message
    if run.state is RunState.RUNNING:
        return "running, no output yet"
    return v1_word(run.state).lower()
