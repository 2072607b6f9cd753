"""Listings of runs, newest submit first, at the cost of the page.

Each state of a listing is one cursor over an index that ends with the sequence; the cursors are
merged lazily, so that a page of 50 out of 100,000 reads about 50 rows whatever states are wanted.
A listing by tag or property walks the first label's own index.
"""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from runyard_contract.states import FINAL, RunState
from runyard_daemon.core.types import NO_RESOURCES, Resources
from runyard_daemon.store.labels import PROPERTY, TAG
from runyard_daemon.store.runs import COLUMNS, RunRecord, from_row

_RUN_COLUMNS = ", ".join(f"r.{column.strip()}" for column in COLUMNS.split(","))
_sequence = attrgetter("sequence")
_MAX_SEQUENCE = (1 << 63) - 1
_STORED = tuple(state for state in RunState if state is not RunState.NOT_STARTED)
_STATES = {state.value: state for state in _STORED}
_UNFINISHED = ", ".join(f"'{state}'" for state in _STORED if state not in FINAL)
_UNFINISHED_COLUMNS = (
    "r.seq, r.run_id, r.workspace, r.experiment, r.compute, r.state, r.priority, "
    "r.cpu_millis, r.memory_bytes, r.gpus, r.create_time_us, r.attempt"
)
# Waiting runs may be many and hold nothing: only the others are joined with their attempts.
_WAITING_QUERY = f"""
    SELECT {_UNFINISHED_COLUMNS}
    FROM runs r WHERE r.workspace IN (SELECT name FROM workspaces) AND r.state IN ({_UNFINISHED})
        AND r.attempt = 0
"""
_HELD_QUERY = f"""
    SELECT {_UNFINISHED_COLUMNS}, a.epoch, a.node_id,
        a.held_cpu_millis, a.held_memory_bytes, a.held_gpus, a.grant_time_us
    FROM runs r JOIN attempts a ON a.run_id = r.run_id AND a.attempt = r.attempt
    WHERE r.workspace IN (SELECT name FROM workspaces) AND r.state IN ({_UNFINISHED})
"""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a listing has. What is empty does not count."""

    workspace: str
    experiment: str = ""
    states: frozenset[RunState] = frozenset()
    compute: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    """All of them; an empty value matches any."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """All of them; an empty value matches any."""


class UnfinishedRun(NamedTuple):
    """What a starting daemon must know of a run that has not ended.

    A tuple, because a start may have to make 100,000 of them: a frozen dataclass takes five times
    as long.
    """

    sequence: int
    run_id: str
    workspace: str
    experiment: str
    compute: str
    state: RunState
    priority: int
    resources: Resources
    """What it asks for."""
    create_time_us: int
    attempt: int
    """Number of the newest attempt; 0: none, and what follows is empty."""
    epoch: int = 0
    node_id: str = ""
    held: Resources = NO_RESOURCES
    """What that attempt holds on its node."""
    grant_time_us: int = 0


def page(
    conn: sqlite3.Connection, wanted: RunFilter, after: int | None, limit: int
) -> list[RunRecord]:
    """Gives up to `limit` runs, newest first.

    `after` is the sequence of the last run of the page before; None: the first page. A run that is
    submitted meanwhile never moves others between pages.
    """
    below = _MAX_SEQUENCE if after is None else after
    if wanted.tags or wanted.properties:
        rows: Iterator[Any] = _by_label(conn, wanted, below, limit)
    elif wanted.compute and not wanted.experiment and not wanted.states:
        rows = conn.execute(
            f"SELECT {COLUMNS} FROM runs INDEXED BY runs_by_compute "
            "WHERE workspace = ? AND compute = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
            (wanted.workspace, wanted.compute, below, limit),
        )
    else:
        rows = _by_state(conn, wanted, below, limit)
    return [from_row(row) for row in islice(rows, limit)]


def _by_state(conn: sqlite3.Connection, wanted: RunFilter, below: int, limit: int) -> Iterator[Any]:
    """Merges one cursor for each state."""
    where, values = "workspace = ?", [wanted.workspace]
    index = "runs_by_state"
    if wanted.experiment:
        where, values = where + " AND experiment = ?", [*values, wanted.experiment]
        index = "runs_by_experiment"
    if wanted.compute:
        where, values = where + " AND compute = ?", [*values, wanted.compute]
    query = (
        f"SELECT {COLUMNS} FROM runs INDEXED BY {index} "
        f"WHERE {where} AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
    )
    states = [state for state in _STORED if not wanted.states or state in wanted.states]
    cursors = [conn.execute(query, (*values, state.value, below, limit)) for state in states]
    return heapq.merge(*cursors, key=lambda row: -row[0])


def _by_label(conn: sqlite3.Connection, wanted: RunFilter, below: int, limit: int) -> Iterator[Any]:
    """Walks the runs that have the first label; the others are looked up for each."""
    labels = [(TAG, *label) for label in wanted.tags.items()]
    labels += [(PROPERTY, *label) for label in wanted.properties.items()]
    labels.sort(key=lambda label: label[2] == "")  # a given value finds fewer than any value
    where: list[str] = []
    values: list[object] = []
    for n, (kind, key, value) in enumerate(labels):
        where.append(f"l{n}.kind = ? AND l{n}.key = ?")
        values += [kind, key]
        if value:
            where.append(f"l{n}.value = ?")
            values.append(value)
    where.append("l0.seq < ? AND r.workspace = ?")
    values += [below, wanted.workspace]
    for column in ("experiment", "compute"):
        if text := getattr(wanted, column):
            where.append(f"r.{column} = ?")
            values.append(text)
    if wanted.states:
        where.append(f"r.state IN ({', '.join('?' * len(wanted.states))})")
        values += sorted(state.value for state in wanted.states)
    others = "".join(
        f" CROSS JOIN run_labels l{n} ON l{n}.seq = l0.seq" for n in range(1, len(labels))
    )
    return conn.execute(
        f"SELECT {_RUN_COLUMNS} FROM run_labels l0{others} "
        f"CROSS JOIN runs r ON r.seq = l0.seq "
        f"WHERE {' AND '.join(where)} ORDER BY l0.seq DESC LIMIT ?",
        (*values, limit),
    )


def unfinished(conn: sqlite3.Connection) -> list[UnfinishedRun]:
    """Gives all runs that have not ended, with their newest attempts, in order of submission."""
    # Most runs ask for the same: one object for all of them keeps the start quick.
    amounts = _Amounts()
    found = [_unfinished(row, amounts) for row in conn.execute(_WAITING_QUERY)]
    for row in conn.execute(_HELD_QUERY):
        epoch, node_id, *held, grant_time_us = row[12:]
        found.append(
            _unfinished(row, amounts)._replace(
                epoch=epoch,
                node_id=node_id,
                held=Resources(*held),
                grant_time_us=grant_time_us,
            )
        )
    found.sort(key=_sequence)
    return found


def _unfinished(row: tuple[Any, ...], amounts: _Amounts) -> UnfinishedRun:
    """The run of a row of `_UNFINISHED_COLUMNS`."""
    return UnfinishedRun(
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        _STATES[row[5]],
        row[6],
        amounts[row[7:10]],
        row[10],
        row[11],
    )


class _Amounts(dict[tuple[int, int, int], Resources]):
    """One object for each amount."""

    def __missing__(self, amount: tuple[int, int, int]) -> Resources:
        self[amount] = Resources(*amount)
        return self[amount]


def recent_ids(conn: sqlite3.Connection, workspace: str, limit: int = 1000) -> list[str]:
    """Gives the ids of the newest runs of a workspace, to suggest the nearest."""
    rows = conn.execute(
        "SELECT run_id FROM runs WHERE workspace = ? ORDER BY seq DESC LIMIT ?", (workspace, limit)
    )
    return [run_id for (run_id,) in rows]
