"""Waits for a run, with or without its output on the screen, or for many with one stream."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from runyard._convert import run_record, state_number
from runyard.follow import Event, LogBytes, resumed
from runyard.records import RunRecord
from runyard_contract.errors import CursorExpired, RunFailed
from runyard_contract.limits import PAGE_SIZE_MAX
from runyard_contract.states import FINAL, RunState, v1_word
from runyardpb.v1 import runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.run import Run

_STREAMED = "Streaming logs/stdout.txt"
_SUMMARY = "Execution Summary"


def show_until_final(run_id: str, events: Iterator[Event], out: TextIO | None = None) -> RunRecord:
    """Prints a run's log live, with the frame that Azure ML gave it; returns the final record.

    Ctrl-C leaves the run alone: it says so and raises KeyboardInterrupt.
    """
    out = out or sys.stdout
    decoders = {
        stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in ("stdout", "stderr")
    }
    out.write(f"RunId: {run_id}\n\n{_STREAMED}\n{'=' * len(_STREAMED)}\n\n")
    record: RunRecord | None = None
    try:
        for event in events:
            if isinstance(event, RunRecord):
                record = event
            elif isinstance(event, LogBytes) and event.stream in decoders:
                out.write(decoders[event.stream].decode(event.data))
                out.flush()
    except KeyboardInterrupt:
        out.write(
            f"\nThe output was interrupted; the run goes on. Follow it with "
            f"`runyard runs logs -f {run_id}`, end it with `runyard runs cancel {run_id}`.\n"
        )
        raise
    for decoder in decoders.values():
        out.write(decoder.decode(b"", final=True))
    assert record is not None  # noqa: S101 - the stream ends with the final record
    out.write(f"\n{_SUMMARY}\n{'=' * len(_SUMMARY)}\nRunId: {run_id}\n")
    for warning in record.warnings:
        out.write(f"Warning: {warning}\n")
    if record.end is not None and record.state == RunState.FAILED:
        out.write(f"Error: {record.end.message}\n")
    out.write("\n")
    out.flush()
    return record


def check_completed(record: RunRecord) -> None:
    """Raises RunFailed, with cause and advice, for a run that failed."""
    if record.state != RunState.FAILED:
        return
    end = record.end
    message = end.message if end is not None and end.message else "it failed"
    exit_code = end.exit_code if end is not None else None
    raise RunFailed(
        f"{record.run_id}: {message}",
        hint=(end.advice if end is not None else "") or f"see `runyard runs show {record.run_id}`",
        run_id=record.run_id,
        state=v1_word(record.state),
        end_class=end.end_class.value if end is not None else "",
        **({} if exit_code is None else {"exit_code": str(exit_code)}),
    )


def wait_all(runs: Iterable[Run], *, raise_on_error: bool = True) -> list[Run]:
    """Waits until all these runs have ended, and gives them in their order.

    One stream an experiment tells of the ends, so that waiting for thousands costs what waiting for
    one does. Ctrl-C leaves the runs alone.

    Args:
        runs: of any experiments.
        raise_on_error: raise RunFailed, with cause and advice, for the first that failed, after all
            have ended.

    Raises RunNotFound for a run that was removed.
    """
    asked = list(runs)
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in asked:
        experiment = run.experiment
        key = (id(experiment.workspace.connection), str(experiment.resource_name))
        groups.setdefault(key, []).append(run)
    for (_, parent), members in groups.items():
        _wait(members[0].experiment.workspace.connection, parent, members)
    if raise_on_error:
        for run in asked:
            check_completed(run.record)
    return asked


def _wait(connection: Connection, parent: str, runs: list[Run]) -> None:
    """Waits for runs of one experiment; each gets its final record."""
    pending: dict[str, list[Run]] = {}
    for run in runs:
        if not run.record.is_final:
            pending.setdefault(run.id, []).append(run)

    def ended() -> Iterator[RunRecord]:
        first = min((members[0] for members in pending.values()), key=lambda run: run.number)
        for told in _ended_once(connection, parent, str(first.record.name)):
            # Of a run that was removed nothing is ever told: a heartbeat asks for the first one.
            record = told or next(iter(pending.values()))[0].refresh()
            if record.is_final:
                for run in pending.pop(record.run_id, ()):
                    run.note(record)
            if not pending:
                return
            yield record

    if pending:
        for _ in resumed(connection, ended, lambda: not pending):
            continue


def _ended_once(connection: Connection, parent: str, first_run: str) -> Iterator[RunRecord | None]:
    """Ended runs of an experiment from one on: those that have, then others as they end.

    None is a heartbeat.
    """
    stub = runs_pb2_grpc.RunServiceStub
    request = runs_pb2.ListRunsRequest(
        parent=parent,
        page_size=PAGE_SIZE_MAX,
        from_run=first_run,
        states=[number for state in sorted(FINAL) if (number := state_number(state)) is not None],
    )
    # The cursor of the first page: what ends while the pages are read is told again.
    cursor = ""
    while True:
        page = connection.unary(stub, lambda runs: runs.ListRuns, request)
        cursor = cursor or page.watch_cursor
        yield from map(run_record, page.runs)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    watch = runs_pb2.WatchRunsRequest(
        parent=parent, cursor=cursor, is_ended_only=True, accepts_several=True
    )
    try:
        with connection.stream(stub, lambda runs: runs.WatchRuns, watch) as changes:
            for change in changes:
                yield from map(run_record, change.earlier)
                yield run_record(change.run) if change.HasField("run") else None
    except CursorExpired:
        # Listing took longer than events are kept: look again.
        yield from _ended_once(connection, parent, first_run)
