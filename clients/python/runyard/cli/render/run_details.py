"""All that is known of one run, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard.cli.output import STDOUT_FD, Output
from runyard.cli.render.amounts import count_text, duration_text, local_time
from runyard.cli.render.ending import waterfall
from runyard.cli.render.run import state_colour, took, what
from runyard.cli.render.text import clean, clean_line
from runyard.snapshot.limits import size_text
from runyard_contract.states import EndClass, v1_word

if TYPE_CHECKING:
    from runyard.records import Explanation, RunRecord


def print_run(output: Output, run: RunRecord) -> None:
    """Prints a run as facts, one a line, then its warnings and where its time went."""
    state = v1_word(run.state)
    if run.state.is_final or not run.status_message:
        message = ""
    else:
        message = f": {clean(run.status_message)}"
    colour = state_colour(run.state)
    output.print(output.paint(run.run_id, "bold", STDOUT_FD))
    _fact(output, "status", (output.paint(state, colour, STDOUT_FD) if colour else state) + message)
    _print_end(output, run)
    for name, value in _facts(run):
        if value:
            _fact(output, name, clean_line(value))
    for name, labels in (("tag", run.tags), ("property", run.properties)):
        for key, value in labels.items():
            _fact(output, name, clean_line(f"{key} = {value}"))
    for warning in run.warnings:
        _fact(output, "warning", clean(warning))
    for line in waterfall(run):
        output.print(f"  {line}")


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    attempt = count_text(run.attempt, "attempt") if run.attempt > 1 else ""
    left = ""
    if run.workdir and run.workdir.file_count:
        left = count_text(run.workdir.file_count, "file")
    return [
        ("program", what(run)),
        ("experiment", f"{run.name.experiment} (run {run.number})"),
        ("target", run.node or run.compute_target or "local"),
        ("attempts", attempt),
        ("submitted", local_time(run.create_time)),
        ("started", local_time(run.start_time)),
        ("ended", local_time(run.end_time)),
        ("took", took(run)),
        ("used", _used(run)),
        ("snapshot", run.snapshot.rpartition("/")[2][:16]),
        ("left behind", f"{left}; `runyard runs download {run.run_id} --workdir`" if left else ""),
    ]


def _used(run: RunRecord) -> str:
    """What the run used, in a line."""
    usage = run.usage
    if usage is None:
        return ""
    whose = "container" if "runyard.container" in run.properties else "largest process"
    peak = f"{size_text(usage.peak_memory_bytes)} of memory in its {whose}"
    is_known = usage.peak_memory_bytes > 0
    parts = [
        f"{duration_text(usage.cpu_time_s)} of CPU" if is_known else "",
        peak if is_known else "",
        f"{size_text(usage.log_bytes)} of logs",
        f"{size_text(usage.output_bytes or 0)} of files",
        f"{size_text(usage.workdir_bytes)} left behind" if usage.workdir_bytes else "",
    ]
    return ", ".join(part for part in parts if part)


def _print_end(output: Output, run: RunRecord) -> None:
    end = run.end
    if end is None:
        return
    if end.exit_code is not None:
        _fact(output, "exit code", str(end.exit_code))
    if end.end_class is not EndClass.NONE:
        _fact(output, "cause", clean(f"{end.message} [{end.end_class.value}]"))
        if end.advice:
            _fact(output, "fix", clean(end.advice))


def _fact(output: Output, name: str, value: str) -> None:
    output.print(f"  {output.paint(f'{name:<12}', 'dim', STDOUT_FD)} {value}")


def print_explanation(output: Output, explanation: Explanation) -> None:
    """Prints why a run waits, what it does, or why it ended."""
    output.print(clean(explanation.summary))
    for detail in explanation.details:
        output.print(f"  {clean(detail)}")
    for node, reasons in explanation.verdicts:
        output.print(f"  {clean_line(node)}: {clean('; '.join(reasons)) or 'fits'}")
    if explanation.ahead:
        output.print(f"  ahead: {', '.join(explanation.ahead)}")
