"""A run's details in the keys that Azure ML gives them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from runyard.records import RunFile, RunRecord, Usage
from runyard_contract.states import RunState, v1_word

LOGS = "logs/"


def utc_text(time: datetime | None) -> str | None:
    """A point in time as RFC 3339 with Z, to the microsecond; None stays None."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def run_details(record: RunRecord, files: Iterable[RunFile]) -> dict[str, Any]:
    """runId, target, status, startTimeUtc, endTimeUtc, properties, runDefinition, logFiles, …

    `error` is there for a run that failed; `usage` once an attempt has ended; `logFiles` maps each
    log to its resource name.
    """
    details: dict[str, Any] = {
        "runId": record.run_id,
        "target": record.compute_target,
        "status": v1_word(record.state),
        "startTimeUtc": utc_text(record.start_time),
        "endTimeUtc": utc_text(record.end_time),
        "properties": {
            "ContentSnapshotId": record.snapshot.rsplit("/", 1)[-1],
            **record.properties,
        },
        "tags": dict(record.tags),
        "runDefinition": dict(record.definition),
        "logFiles": {
            file.path: f"{record.name}/files/{file.path}"
            for file in files
            if file.path.startswith(LOGS)
        },
        "usage": _usage(record.usage) if record.usage is not None else None,
        "warnings": [{"message": warning} for warning in record.warnings],
    }
    if record.end is not None and record.state == RunState.FAILED:
        details["error"] = {
            "code": record.end.end_class.value,
            "message": record.end.message,
            "advice": record.end.advice,
            "exitCode": record.end.exit_code,
            "signal": record.end.signal,
            "details": dict(record.end.metadata),
        }
    return {key: value for key, value in details.items() if value is not None}


def _usage(usage: Usage) -> dict[str, Any]:
    """What a run used, in seconds and bytes."""
    return {
        "cpuTimeSeconds": usage.cpu_time_s,
        "peakMemoryBytes": usage.peak_memory_bytes,
        "wallTimeSeconds": usage.wall_time_s,
        "logBytes": usage.log_bytes,
        "outputBytes": usage.output_bytes,
        "workingFolderBytes": usage.workdir_bytes,
    }
