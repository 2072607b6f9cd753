"""Listings of runs in order of submission, at the cost of the page.

A listing walks one index that is in order of submission: by label, name, target, or by state with
or without experiment. An index by state has one cursor for each, merged lazily, so that a page of
50 out of a million reads about 50 rows whatever states are wanted. The other conditions are looked
up for each run that the walk finds.
"""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter, itemgetter

from runyard_contract.states import RunState
from runyard_daemon.store.labels import PROPERTY, TAG
from runyard_daemon.store.runs import COLUMNS, RunRecord, from_row

_RUN_COLUMNS = ", ".join(f"r.{column.strip()}" for column in COLUMNS.split(","))
_sequence = attrgetter("sequence")
_MAX_SEQUENCE = (1 << 63) - 1
_COUNTED = 2000
_CLOCK_SLACK_US = 3_600_000_000
_STORED = tuple(state for state in RunState if state is not RunState.NOT_STARTED)
_STATES = {state.value: state for state in _STORED}


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A name, or the beginning of one."""

    text: str
    is_beginning: bool = False

    @property
    def range(self) -> tuple[str, str]:
        """The first and the last text that fits."""
        return self.text, self.text + "\U0010ffff" if self.is_beginning else self.text


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
    name: NamePattern | None = None
    """Of the display name or the id."""
    from_sequence: int = 0
    """Only runs with this sequence or a higher one."""
    created_from_us: int | None = None
    created_before_us: int | None = None


@dataclass(frozen=True, slots=True)
class _Driver:
    """An index that a listing walks: what to select from, and the rows that it has."""

    source: str
    where: str
    values: tuple[object, ...]
    sequence: str = "r.seq"


def page(
    conn: sqlite3.Connection,
    wanted: RunFilter,
    after: int | None,
    limit: int,
    *,
    is_oldest_first: bool = False,
) -> list[RunRecord]:
    """Gives up to `limit` runs in order of submission, the newest first unless asked otherwise.

    `after` is the sequence of the last run of the page before; None: the first page. A run that is
    submitted meanwhile never moves others between pages.
    """
    above, below = _bounds(conn, wanted)
    if after is not None:
        above, below = (max(above, after), below) if is_oldest_first else (above, min(below, after))
    where, values = _conditions(wanted)
    direction = "ASC" if is_oldest_first else "DESC"
    cursors = []
    for driver in _drivers(conn, wanted):
        query = (
            f"SELECT {_RUN_COLUMNS} FROM {driver.source} WHERE {driver.where} "
            f"AND {driver.sequence} > ? AND {driver.sequence} < ? {where} "
            f"ORDER BY {driver.sequence} {direction} LIMIT ?"
        )
        cursors.append(conn.execute(query, (*driver.values, above, below, *values, limit)))
    rows = heapq.merge(*cursors, key=itemgetter(0), reverse=not is_oldest_first)
    return [from_row(row) for row in islice(rows, limit)]


def _conditions(wanted: RunFilter) -> tuple[str, list[object]]:
    """All that a run must fulfil, whatever index it was found by, but for its state."""
    where = ["r.workspace = ?"]
    values: list[object] = [wanted.workspace]
    for column in ("experiment", "compute"):
        if text := getattr(wanted, column):
            where.append(f"r.{column} = ?")
            values.append(text)
    if wanted.states:
        where.append(f"r.state IN ({', '.join('?' * len(wanted.states))})")
        values += sorted(state.value for state in wanted.states)
    if wanted.name is not None:
        low, high = wanted.name.range
        where.append("(r.display_name BETWEEN ? AND ? OR r.run_id BETWEEN ? AND ?)")
        values += [low, high, low, high]
    for kind, key, value in _labels(wanted):
        given = " AND l.value = ?" if value else ""
        where.append(
            f"EXISTS (SELECT 1 FROM run_labels l WHERE l.kind = ? AND l.key = ?{given}"
            " AND l.seq = r.seq)"
        )
        values += [kind, key, *([value] if value else [])]
    for sign, time_us in ((">=", wanted.created_from_us), ("<", wanted.created_before_us)):
        if time_us is not None:
            where.append(f"r.create_time_us {sign} ?")
            values.append(time_us)
    return "".join(f" AND {condition}" for condition in where), values


def _labels(wanted: RunFilter) -> list[tuple[int, str, str]]:
    """Kind, key and value (empty: any) of all labels that are asked for."""
    labels = [(TAG, *label) for label in wanted.tags.items()]
    return labels + [(PROPERTY, *label) for label in wanted.properties.items()]


def _drivers(conn: sqlite3.Connection, wanted: RunFilter) -> list[_Driver]:
    """The index to walk, as one driver for each of its parts that is in order of submission.

    Of several conditions the one that fewest runs fulfil; that is found by counting a little.
    """
    single = [_label_driver(*label) for label in _labels(wanted)]
    if wanted.name is not None:
        single.append(_name_driver(wanted.workspace, wanted.name))
    if wanted.compute:
        single.append(
            _Driver(
                "runs r INDEXED BY runs_by_compute",
                "r.workspace = ? AND r.compute = ?",
                (wanted.workspace, wanted.compute),
            )
        )
    choices = [[driver] for driver in single]
    if wanted.experiment or not single:
        choices.append(_state_drivers(wanted))
    if len(choices) == 1:
        return choices[0]
    return min(choices, key=lambda choice: sum(_count(conn, driver) for driver in choice))


def _count(conn: sqlite3.Connection, driver: _Driver) -> int:
    """How many runs a driver has, up to a number beyond which any other is as good."""
    (count,) = conn.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {driver.source} WHERE {driver.where} LIMIT ?)",
        (*driver.values, _COUNTED),
    ).fetchone()
    return int(count)


def _state_drivers(wanted: RunFilter) -> list[_Driver]:
    """One for each state: an index by state is in order of submission within each."""
    index, where, values = "runs_by_state", "r.workspace = ?", [wanted.workspace]
    if wanted.experiment:
        index, where = "runs_by_experiment", f"{where} AND r.experiment = ?"
        values.append(wanted.experiment)
    return [
        _Driver(f"runs r INDEXED BY {index}", f"{where} AND r.state = ?", (*values, state.value))
        for state in _STORED
        if not wanted.states or state in wanted.states
    ]


def _label_driver(kind: int, key: str, value: str) -> _Driver:
    source = "run_labels d CROSS JOIN runs r ON r.seq = d.seq"
    if value:
        where, values = "d.kind = ? AND d.key = ? AND d.value = ?", (kind, key, value)
        return _Driver(source, where, values, "d.seq")
    return _Driver(source, "d.kind = ? AND d.key = ?", (kind, key), "d.seq")


def _name_driver(workspace: str, name: NamePattern) -> _Driver:
    """Runs by their own name or their id; sorts all that the name fits."""
    low, high = name.range
    source = (
        "(SELECT seq FROM runs INDEXED BY runs_by_name WHERE workspace = ? "
        "AND display_name != run_id AND display_name BETWEEN ? AND ? "
        "UNION SELECT seq FROM runs WHERE run_id BETWEEN ? AND ?) d "
        "CROSS JOIN runs r ON r.seq = d.seq"
    )
    return _Driver(source, "TRUE", (workspace, low, high, low, high), "d.seq")


def _bounds(conn: sqlite3.Connection, wanted: RunFilter) -> tuple[int, int]:
    """The sequences that the wanted runs lie between, both left out.

    Sequences grow with time unless the clock is set back: an hour to either side is looked at, too.
    """
    above, below = wanted.from_sequence - 1, _MAX_SEQUENCE
    if wanted.created_from_us is not None:
        above = max(above, _first_from(conn, wanted.created_from_us - _CLOCK_SLACK_US) - 1)
    if wanted.created_before_us is not None:
        below = _first_from(conn, wanted.created_before_us + _CLOCK_SLACK_US)
    return above, below


def _first_from(conn: sqlite3.Connection, time_us: int) -> int:
    """The sequence of the first run created at this time or later, by halving."""
    # Each its own query: one for both ends would read everything between them.
    (low,) = conn.execute("SELECT coalesce(min(seq), 1) FROM runs").fetchone()
    (high,) = conn.execute("SELECT coalesce(max(seq), 0) + 1 FROM runs").fetchone()
    while low < high:
        middle = (low + high) // 2
        sequence, created_us = conn.execute(
            "SELECT seq, create_time_us FROM runs WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if created_us >= time_us:
            high = middle
        else:
            low = sequence + 1
    return int(low)


def recent_ids(conn: sqlite3.Connection, workspace: str, limit: int = 1000) -> list[str]:
    """Gives the ids of the newest runs of a workspace, to suggest the nearest."""
    rows = conn.execute(
        "SELECT run_id FROM runs WHERE workspace = ? ORDER BY seq DESC LIMIT ?", (workspace, limit)
    )
    return [run_id for (run_id,) in rows]
