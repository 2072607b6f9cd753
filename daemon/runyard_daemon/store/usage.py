"""What a run used, summed up from the records of its attempts and files."""

from __future__ import annotations

import sqlite3
from typing import Final

from runyard_contract.record import record
from runyard_daemon.store import details
from runyard_daemon.store.runs import RunRecord

_ATTEMPTS: Final = "SELECT end_json, lengths FROM attempts WHERE run_id = ? ORDER BY attempt"
_OUTPUTS: Final = "SELECT coalesce(sum(size_bytes), 0) FROM run_files WHERE run_id = ?"
_LOGS: Final = ("stdout.txt", "stderr.txt", "environment.txt")


@record
class UsageRecord:
    """What the attempts of a run that have ended used."""

    cpu_time_us: int
    """User and system, of all processes, over all attempts."""
    peak_memory_bytes: int
    """The largest resident set that any one process had; of a container the most as a whole."""
    wall_time_us: int
    """How long the program ran, over all attempts."""
    log_bytes: int
    """Of the newest attempt."""
    workdir_bytes: int
    """What was left in the working folder of the newest attempt, outside outputs/ and logs/."""
    output_bytes: int | None
    """Files registered under the run; None: not summed up."""


def of_run(
    conn: sqlite3.Connection, run: RunRecord, *, with_outputs: bool = True
) -> UsageRecord | None:
    """Gives what a run used in its attempts; None before the first has ended.

    Summing up outputs costs time for each file: listings do without.
    """
    tried = conn.execute(_ATTEMPTS, (run.run_id,)).fetchall() if run.attempt else []
    ends = [details.decode_mapping(end) for end, _ in tried if end is not None]
    if not ends:
        return None
    output_bytes = None
    if with_outputs:
        (output_bytes,) = conn.execute(_OUTPUTS, (run.run_id,)).fetchone()
    lengths = details.decode_mapping(tried[-1][1])
    return UsageRecord(
        cpu_time_us=sum([end.get("cpu_time_us") or 0 for end in ends]),
        peak_memory_bytes=max([end.get("peak_memory_bytes") or 0 for end in ends]),
        wall_time_us=sum([end.get("duration_us") or 0 for end in ends]),
        log_bytes=sum([lengths.get(name, 0) for name in _LOGS]),
        workdir_bytes=run.workdir.size_bytes if run.workdir else 0,
        output_bytes=output_bytes,
    )
