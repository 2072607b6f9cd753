"""The runs that have not ended, as a starting daemon reads them: 100,000 of them in a moment."""

# ruff: noqa: S608  states are constants of the contract, values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runyard_contract.states import RunState
from runyard_daemon.core.lifecycle import HELD, WAITING
from runyard_daemon.core.types import AttemptRef, NodeId, QueuedRun, Resources


def _texts(states: frozenset[RunState]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


# Names the first column of `runs_by_state`; every run is in a workspace.
_IN_A_WORKSPACE = "r.workspace IN (SELECT name FROM workspaces)"
_AHEAD = "a.phase = 'AHEAD' AND a.end_time_us IS NULL"
# Waiting runs may be many and hold nothing: only what the queue sorts by is read of them.
_WAITING_QUERY = f"""
    SELECT run_id, compute, priority, seq, cpu_millis, memory_bytes, gpus
    FROM runs r WHERE {_IN_A_WORKSPACE} AND state IN ({_texts(WAITING)})
        AND run_id NOT IN (SELECT a.run_id FROM attempts a WHERE {_AHEAD})
"""
_GRANTED_COLUMNS = """
    r.run_id, r.compute, r.priority, r.seq, r.cpu_millis, r.memory_bytes, r.gpus, r.workspace,
    r.experiment, r.state, a.attempt, a.epoch, a.node_id,
    a.held_cpu_millis, a.held_memory_bytes, a.held_gpus
"""
_HELD_QUERY = f"""
    SELECT {_GRANTED_COLUMNS}, FALSE
    FROM runs r JOIN attempts a ON a.run_id = r.run_id AND a.attempt = r.attempt
    WHERE {_IN_A_WORKSPACE} AND r.state IN ({_texts(HELD)}) AND NOT ({_AHEAD})
"""
# CROSS JOIN keeps SQLite from looking at every waiting run first.
_SENT_AHEAD_QUERY = f"""
    SELECT {_GRANTED_COLUMNS}, TRUE
    FROM attempts a CROSS JOIN runs r ON r.run_id = a.run_id
    WHERE {_AHEAD} AND r.state IN ({_texts(WAITING | HELD)})
"""


@dataclass(frozen=True, slots=True)
class GrantedRun:
    """A run whose newest attempt a node has, or may have."""

    queued: QueuedRun
    """What it waited as."""
    workspace: str
    experiment: str
    state: RunState
    ref: AttemptRef
    node: NodeId
    held: Resources
    """What the attempt holds on its node."""
    is_ahead: bool
    """It was sent ahead of its node's room: the run still waits."""


def waiting(conn: sqlite3.Connection) -> Iterator[QueuedRun]:
    """Gives the runs that wait and that no node has, in no particular order."""
    amounts = _Amounts()
    for row in conn.execute(_WAITING_QUERY):
        yield QueuedRun(row[0], row[1], row[2], row[3], amounts[row[4:]])


def granted(conn: sqlite3.Connection) -> list[GrantedRun]:
    """Gives the runs that a node has, or was sent ahead, in order of submission."""
    rows = [*conn.execute(_HELD_QUERY), *conn.execute(_SENT_AHEAD_QUERY)]
    return sorted(map(_granted, rows), key=lambda run: run.queued.sequence)


def _granted(row: tuple[Any, ...]) -> GrantedRun:
    run_id, compute, priority, sequence = row[:4]
    workspace, experiment, state, attempt, epoch, node_id = row[7:13]
    return GrantedRun(
        QueuedRun(run_id, compute, priority, sequence, Resources(*row[4:7])),
        workspace,
        experiment,
        RunState(state),
        AttemptRef(run_id, attempt, epoch),
        NodeId(node_id),
        Resources(*row[13:16]),
        bool(row[16]),
    )


class _Amounts(dict[tuple[int, ...], Resources]):
    """One object for each amount: most runs ask for the same."""

    def __missing__(self, amount: tuple[int, ...]) -> Resources:
        self[amount] = Resources(*amount)
        return self[amount]
