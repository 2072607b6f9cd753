from __future__ import annotations

import sqlite3

import pytest

from runyard_contract.states import FINAL, RunState
from runyard_daemon.core.lifecycle import HELD, WAITING
from runyard_daemon.core.types import AttemptRef, QueuedRun, Resources
from runyard_daemon.store import attempts, meta, runs, unfinished
from runyard_daemon.store.attempts import AttemptRecord
from runyard_daemon.store.runs import RunRecord
from runyard_daemon.store.transitions import TransitionRecord
from support.records import NOW_US, add_run, fresh_database

ASKED = Resources(cpu_millis=2000, memory_bytes=1 << 30, gpus=1)
HELD_THERE = Resources(cpu_millis=500)


@pytest.fixture
def conn(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    return fresh_database(tmp_path_factory.mktemp("records") / "runyard.db")


def grant(conn: sqlite3.Connection, run: RunRecord, attempt: int = 1) -> AttemptRef:
    """Gives an attempt of a run to node1, and the run the state that it has."""
    record = AttemptRecord(
        run_id=run.run_id,
        attempt=attempt,
        epoch=meta.next_epochs(conn, 1)[0],
        node_id="node1",
        grant_time_us=NOW_US,
        held=HELD_THERE,
    )
    attempts.insert(conn, record)
    change = TransitionRecord(run.state, NOW_US, "granted", "scheduler")
    runs.move(conn, run.run_id, (change,), attempt=attempt)
    return record.ref


def send_ahead(conn: sqlite3.Connection, run: RunRecord) -> AttemptRef:
    """Sends a waiting run to node1 ahead of its room."""
    record = AttemptRecord(
        run_id=run.run_id,
        attempt=1,
        epoch=meta.next_epochs(conn, 1)[0],
        node_id="node1",
        grant_time_us=NOW_US,
        phase="AHEAD",
        held=HELD_THERE,
    )
    attempts.insert(conn, record)
    return record.ref


def test_each_unfinished_run_either_waits_or_is_granted(conn: sqlite3.Connection) -> None:
    states = sorted(set(RunState) - {RunState.NOT_STARTED})
    added = {state: add_run(conn, n, state=state) for n, state in enumerate(states, start=1)}
    for state in HELD:
        grant(conn, added[state])

    waiting = {run.run_id for run in unfinished.waiting(conn)}
    granted = {run.queued.run_id: run.state for run in unfinished.granted(conn)}

    assert waiting == {added[state].run_id for state in WAITING}
    assert granted == {added[state].run_id: state for state in HELD}
    assert set(states) - WAITING - HELD == FINAL


def test_a_waiting_run_has_what_the_queue_sorts_by(conn: sqlite3.Connection) -> None:
    urgent = add_run(conn, 1, compute="box", priority=7, resources=ASKED)
    plain = add_run(conn, 2)

    found = {run.run_id: run for run in unfinished.waiting(conn)}

    assert found[urgent.run_id] == QueuedRun(urgent.run_id, "box", 7, 1, ASKED)
    assert found[plain.run_id] == QueuedRun(plain.run_id, "local", 0, 2, plain.resources)


def test_a_granted_run_has_its_newest_attempt_and_what_it_holds(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1, state=RunState.RUNNING, resources=ASKED)
    grant(conn, run)
    newest = grant(conn, run, attempt=2)

    (found,) = unfinished.granted(conn)

    assert (found.ref, found.node, found.held) == (newest, "node1", HELD_THERE)
    assert (found.workspace, found.experiment) == (run.workspace, run.experiment)
    assert found.queued == QueuedRun(run.run_id, "local", 0, 1, ASKED)
    assert not found.is_ahead


def test_a_run_sent_ahead_is_granted_and_does_not_wait(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1)
    ref = send_ahead(conn, run)

    (found,) = unfinished.granted(conn)

    assert (found.ref, found.state, found.is_ahead) == (ref, RunState.QUEUED, True)
    assert list(unfinished.waiting(conn)) == []


def test_a_run_whose_place_ahead_ended_waits_again(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1)
    attempts.update(conn, send_ahead(conn, run), end_time_us=NOW_US)

    assert [found.run_id for found in unfinished.waiting(conn)] == [run.run_id]
    assert unfinished.granted(conn) == []


def test_granted_runs_come_in_order_of_submission(conn: sqlite3.Connection) -> None:
    ahead = [add_run(conn, n) for n in (1, 4)]
    running = [add_run(conn, n, state=RunState.RUNNING) for n in (2, 3)]
    for run in reversed(running):
        grant(conn, run)
    for run in reversed(ahead):
        send_ahead(conn, run)

    assert [found.queued.sequence for found in unfinished.granted(conn)] == [1, 2, 3, 4]
