"""A run as JSON for programs, as a row of a table, and as facts for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runyard.cli.render.amounts import duration_text, local_time, utc_time
from runyard_contract.states import EndClass, RunState, v1_word

if TYPE_CHECKING:
    from runyard.records import Estimate, Explanation, RunEnd, RunFile, RunRecord
    from runyard.snapshot.take import SnapshotStatistics

RUN_COLUMNS = ("RUN", "STATUS", "EXIT", "TARGET", "SUBMITTED", "TOOK", "WHAT")
_STATE_COLOURS = {
    RunState.COMPLETED: "green",
    RunState.FAILED: "red",
    RunState.CANCELED: "yellow",
    RunState.CANCEL_REQUESTED: "yellow",
    RunState.NOT_RESPONDING: "yellow",
}


def run_json(run: RunRecord, statistics: SnapshotStatistics | None = None) -> dict[str, Any]:
    """The stable JSON form of a run; with what its snapshot cost where this command took it."""
    end = run.end
    return {
        "run_id": run.run_id,
        "experiment": run.name.experiment,
        "workspace": run.name.workspace,
        "number": run.number,
        "display_name": run.display_name,
        "status": v1_word(run.state),
        "status_message": run.status_message,
        "exit_code": end.exit_code if end else None,
        "signal": end.signal if end else None,
        "outcome": end.outcome if end else None,
        "attempt": run.attempt,
        "cause": _cause(end),
        "compute_target": run.compute_target,
        "node": run.node,
        "create_time": utc_time(run.create_time),
        "start_time": utc_time(run.start_time),
        "end_time": utc_time(run.end_time),
        "phases": [
            {
                "phase": span.phase,
                "start_time": utc_time(span.start_time),
                "duration_s": span.duration_s,
            }
            for span in run.phases
        ],
        "snapshot": {"digest": run.snapshot.rpartition("/")[2] or None, **_costs(statistics)},
        "tags": dict(run.tags),
        "properties": dict(run.properties),
        "warnings": list(run.warnings),
        "workdir": _workdir(run),
        "usage": _usage(run),
        "transitions": [
            {
                "status": v1_word(change.state),
                "time": utc_time(change.time),
                "cause": change.cause,
                "actor": change.actor,
            }
            for change in run.transitions
        ],
        "definition": dict(run.definition),
    }


def _cause(end: RunEnd | None) -> dict[str, Any] | None:
    """Why a run did not complete; None while it has not ended, and for one that completed."""
    if end is None or end.end_class is EndClass.NONE:
        return None
    return {
        "class": end.end_class.value,
        "message": end.message,
        "advice": end.advice,
        "metadata": dict(end.metadata),
        "last_lines": end.last_lines.decode("utf-8", "backslashreplace"),
    }


def _costs(statistics: SnapshotStatistics | None) -> dict[str, Any]:
    if statistics is None:
        return {}
    return {
        "files_scanned": statistics.files_scanned,
        "bytes_scanned": statistics.bytes_scanned,
        "files_hashed": statistics.files_hashed,
        "bytes_hashed": statistics.bytes_hashed,
        "blobs_sent": statistics.blobs_sent,
        "bytes_sent": statistics.bytes_sent,
        "duration_s": statistics.duration_s,
    }


def _usage(run: RunRecord) -> dict[str, Any] | None:
    """What a run used; None before its first attempt has ended."""
    if run.usage is None:
        return None
    return {
        "cpu_time_s": run.usage.cpu_time_s,
        "peak_memory_bytes": run.usage.peak_memory_bytes,
        "wall_time_s": run.usage.wall_time_s,
        "log_bytes": run.usage.log_bytes,
        "output_bytes": run.usage.output_bytes,
        "workdir_bytes": run.usage.workdir_bytes,
    }


def _workdir(run: RunRecord) -> dict[str, Any] | None:
    if run.workdir is None:
        return None
    return {
        "file_count": run.workdir.file_count,
        "files": [file_json(file) for file in run.workdir.files],
        "expire_time": utc_time(run.workdir.expire_time),
    }


def file_json(file: RunFile) -> dict[str, Any]:
    """The stable JSON form of a run's file."""
    return {
        "path": file.path,
        "size_bytes": file.size_bytes,
        "update_time": utc_time(file.update_time),
        "is_executable": file.is_executable,
    }


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """The stable JSON form of an explanation."""
    return {
        "summary": explanation.summary,
        "details": list(explanation.details),
        "queue_position": explanation.queue_position,
        "ahead": list(explanation.ahead),
        "verdicts": [
            {"node": node, "reasons": list(reasons)} for node, reasons in explanation.verdicts
        ],
        "changes": [
            {
                "text": change.text,
                "is_at_once": change.is_at_once,
                "cpus": change.cpus,
                "memory_bytes": change.memory_bytes,
                "gpus": change.gpus,
                "priority": change.priority,
                "cancel": list(change.cancel),
            }
            for change in explanation.changes
        ],
        "estimate": _estimate(explanation.estimate) if explanation.estimate else None,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "text": estimate.text,
        "sample_count": estimate.sample_count,
        "durations_s": list(estimate.durations_s) if estimate.durations_s else None,
        "earliest_start_time": utc_time(estimate.earliest_start_time),
        "latest_start_time": utc_time(estimate.latest_start_time),
        "earliest_end_time": utc_time(estimate.earliest_end_time),
        "latest_end_time": utc_time(estimate.latest_end_time),
    }


def state_colour(state: RunState) -> str:
    """The colour of a state in tables; empty for states without a verdict."""
    return _STATE_COLOURS.get(state, "")


def run_row(run: RunRecord) -> tuple[str, ...]:
    """A run's cells under RUN_COLUMNS."""
    end = run.end
    exit_text = (
        "" if end is None else f"signal {end.signal}" if end.signal else _number(end.exit_code)
    )
    return (
        run.run_id,
        v1_word(run.state),
        exit_text,
        run.compute_target or "local",
        local_time(run.create_time),
        took(run),
        what(run),
    )


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def took(run: RunRecord) -> str:
    """How long the program ran, empty where it did not start or has not ended."""
    if run.start_time is None or run.end_time is None:
        return ""
    return duration_text((run.end_time - run.start_time).total_seconds())


def what(run: RunRecord) -> str:
    """The program of a run, as it was submitted."""
    words = run.definition.get("command") or [
        run.definition.get("script", ""),
        *(run.definition.get("arguments") or ()),
    ]
    text = " ".join(str(word) for word in words)
    return text if len(text) <= 60 else text[:59] + "…"
