"""What earlier runs tell of later ones: how long they took."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LOOKED_AT: Final = 200
"""Newest ended runs of an experiment that are searched for those of one target."""
_OF_RUN: Final = "SELECT experiment, start_time_us FROM runs WHERE run_id = ?"
_NEWEST: Final = """
    SELECT * FROM (
        SELECT seq, compute, start_time_us, end_time_us FROM runs
        WHERE workspace = ?1 AND experiment = ?2 AND state = '{state}'
        ORDER BY seq DESC LIMIT ?4
    )
"""
# One index range for each state: a condition on both would sort all runs of the experiment.
_TOOK: Final = f"""
    SELECT end_time_us - start_time_us FROM (
        {_NEWEST.format(state="COMPLETED")} UNION ALL {_NEWEST.format(state="FAILED")}
    )
    WHERE compute = ?3 COLLATE NOCASE AND end_time_us >= start_time_us
    ORDER BY seq DESC LIMIT ?5
"""  # noqa: S608  states are constants of this module, values are bound


@dataclass(frozen=True, slots=True)
class Started:
    """What a run is of, and when its program was started."""

    experiment: str
    start_time_us: int | None


def durations_s(
    conn: sqlite3.Connection, workspace: str, experiment: str, compute: str, count: int
) -> list[float]:
    """Gives how long the newest runs that ended by themselves took, in seconds, newest first.

    At most `count`, of the newest of the experiment on this target. Its cost does not grow with
    the number of runs on record.
    """
    found = conn.execute(_TOOK, (workspace, experiment, compute, _LOOKED_AT, count))
    return [took_us / 1e6 for (took_us,) in found]


def started(conn: sqlite3.Connection, run_ids: Iterable[str]) -> dict[str, Started]:
    """Gives experiment and start of runs, by id; one that is not on record is left out."""
    rows = {run_id: conn.execute(_OF_RUN, (run_id,)).fetchone() for run_id in run_ids}
    return {run_id: Started(*row) for run_id, row in rows.items() if row is not None}
