"""What is said of a run when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard.cli.failure import EXIT_INTERRUPTED
from runyard.cli.output import Output
from runyard.cli.render.amounts import count_text, duration_text, local_time
from runyard.cli.render.run import state_colour, took
from runyard.cli.render.text import clean, clean_line
from runyard.snapshot.limits import size_text
from runyard_contract.states import EndClass, RunState

if TYPE_CHECKING:
    from runyard.records import RunRecord
    from runyard.snapshot.take import SnapshotStatistics

OTHER_EXIT = 125
_WATERFALL_WIDTH = 30


def say_warnings(output: Output, run: RunRecord) -> None:
    """What a person should know although the run went on."""
    for warning in run.warnings:
        output.say(f"{output.paint('runyard: warning:', 'yellow')} {clean(warning)}")


def say_workdir(output: Output, run: RunRecord) -> None:
    """The files that the script left outside outputs/ and logs/, and how to fetch them."""
    if run.workdir is None or not run.workdir.file_count:
        return
    count = run.workdir.file_count
    until = f" until {local_time(run.workdir.expire_time)}" if run.workdir.expire_time else ""
    output.say(
        f"runyard: the script wrote {count_text(count, 'file')} outside outputs/, kept{until}:"
    )
    for file in run.workdir.files:
        output.say(f"    {clean_line(file.path)}  {size_text(file.size_bytes)}")
    if count > len(run.workdir.files):
        output.say(f"    and {count - len(run.workdir.files):,} more")
    output.say(f"  fetch them with `runyard runs download {run.run_id} --workdir`")


def say_snapshot(output: Output, statistics: SnapshotStatistics) -> None:
    """What the snapshot cost."""
    scanned = count_text(statistics.files_scanned, "file")
    hashed = count_text(statistics.files_hashed, "file")
    sent = count_text(statistics.blobs_sent, "blob")
    output.say(
        f"runyard: snapshot: {scanned} ({size_text(statistics.bytes_scanned)}) scanned, "
        f"{hashed} ({size_text(statistics.bytes_hashed)}) hashed, "
        f"{sent} ({size_text(statistics.bytes_sent)}) sent, "
        f"{duration_text(statistics.duration_s)}"
    )


def waterfall(run: RunRecord) -> list[str]:
    """Where a run's time went, one line a phase, with bars to scale."""
    starts = [span.start_time for span in run.phases if span.start_time is not None]
    if not starts:
        return []
    first = min(starts)
    ends = [
        (span.start_time - first).total_seconds() + span.duration_s
        for span in run.phases
        if span.start_time is not None
    ]
    whole_s = max(*ends, 0.001)
    lines = []
    for span in run.phases:
        if span.start_time is None:
            continue
        before = (span.start_time - first).total_seconds() / whole_s
        begin = min(round(before * _WATERFALL_WIDTH), _WATERFALL_WIDTH - 1)
        length = max(round(span.duration_s / whole_s * _WATERFALL_WIDTH), 1)
        bar = " " * begin + "█" * min(length, _WATERFALL_WIDTH - begin)
        took_s = duration_text(span.duration_s)
        lines.append(f"{span.phase:<13} {bar:<{_WATERFALL_WIDTH}} {took_s}")
    return lines


def say_end(output: Output, run: RunRecord, *, was_interrupted: bool = False) -> int:
    """Says why a run ended and, in the last line, how; returns the command's exit code."""
    end = run.end
    exit_code = EXIT_INTERRUPTED if was_interrupted else end.outcome if end else OTHER_EXIT
    if end is not None and end.end_class is not EndClass.NONE:
        if not _is_whole_story(run):
            output.say(f"  {output.paint('cause:', 'red')} {clean(end.message)}")
        if end.advice:
            output.say(f"  {output.paint('fix:', 'green')} {clean(end.advice)}")
    colour = state_colour(run.state) or "bold"
    output.say(output.paint(f"runyard: {run.run_id} {_verdict(run, exit_code)}", colour))
    return exit_code


def _is_whole_story(run: RunRecord) -> bool:
    """Whether the last line says all that the cause would say."""
    end = run.end
    if end is None:
        return True
    return end.exit_code is not None and end.message.endswith(f"exited with code {end.exit_code}")


def _verdict(run: RunRecord, exit_code: int) -> str:
    """How a run ended, for the last line."""
    end = run.end
    time = f" after {took(run)}" if took(run) else ""
    if run.state is RunState.COMPLETED or end is None:
        return f"completed{time}"
    if run.state is RunState.CANCELED:
        return f"was canceled{time} (exit code {exit_code})"
    if end.exit_code is not None and end.outcome == end.exit_code:
        return f"failed{time}: the script exited with code {end.exit_code}"
    if end.signal is not None and end.outcome == 128 + end.signal:
        return f"failed{time}: signal {end.signal} ended the script (exit code {exit_code})"
    word = end.end_class.value.lower().replace("_", " ")
    return f"failed{time}: {word} (exit code {exit_code})"
