"""Waits for a run, with or without its output on the screen."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from typing import TextIO

from runyard.follow import Event, LogBytes
from runyard.records import RunRecord
from runyard_contract.errors import RunFailed
from runyard_contract.states import RunState, v1_word

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
