from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from runyard_contract.errors import RunNotFound
from runyard_contract.states import EndClass, RunState
from runyard_daemon.core.types import Resources
from runyard_daemon.store import events, experiments, labels, runs, transitions
from runyard_daemon.store.details import EndRecord, PhaseRecord, WorkdirFile, WorkdirRecord
from runyard_daemon.store.runs import SpecRecord
from runyard_daemon.store.transitions import TransitionRecord
from support.records import NOW_US, WORKSPACE, add_run, run_id, run_record

END = EndRecord(
    EndClass.SCRIPT_ERROR,
    "the script returned 7",
    advice="read the log",
    exit_code=7,
    metadata={"exit_code": "7"},
    outcome=7,
    last_lines=b"no UTF-8: \xff\x00\n",
)
WORKDIR = WorkdirRecord((WorkdirFile("data/ä.csv", 12, is_executable=True),), 21, NOW_US)


def test_run_comes_back_as_it_was_stored(conn: sqlite3.Connection) -> None:
    experiments.admit(conn, WORKSPACE, "iris", 1, NOW_US)
    history = (
        TransitionRecord(RunState.QUEUED, NOW_US, "submitted", "user"),
        TransitionRecord(RunState.STARTING, NOW_US + 1, "granted", "daemon"),
    )
    run = run_record(
        1,
        state=RunState.STARTING,
        attempt=1,
        revision=2,
        priority=-5,
        resources=Resources(1500, 1 << 40, 2),
        start_time_us=NOW_US + 1,
        end_time_us=NOW_US + 2,
        client_snapshot_us=3,
        submitted_by="ada",
        snapshot="ab" * 32,
        display_name="first ☃",
        node="local/host",
        status_message="pulls",
        canceled_by="bob",
        cancel_reason="wrong data",
        tags={"k": "v", "empty": ""},
        properties={"git.commit": "abc"},
        warnings=("careful", "it's late"),
        phases=(PhaseRecord("waiting", NOW_US, 5),),
        end=END,
        workdir=WORKDIR,
    )

    stored = runs.insert(conn, run, SpecRecord(b"\x00spec", b"env"), history)

    assert stored == run
    assert runs.get(conn, run.run_id) == run
    assert runs.get_spec(conn, run.run_id) == SpecRecord(b"\x00spec", b"env")
    assert transitions.of_run(conn, run.run_id) == list(history)


def test_update_changes_what_it_names_and_nothing_else(conn: sqlite3.Connection) -> None:
    before = add_run(conn, 1, node="local/host", tags={"a": "b"})

    revision = runs.update(
        conn, before.run_id, warnings=("w",), end=END, workdir=WORKDIR, display_name="x"
    )

    expected = replace(
        before, revision=revision, warnings=("w",), end=END, workdir=WORKDIR, display_name="x"
    )
    assert revision > before.revision
    assert runs.get(conn, before.run_id) == expected


def test_update_clears_what_is_given_as_none(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1, start_time_us=NOW_US, end=END)

    runs.update(conn, run.run_id, start_time_us=None, end=None)

    found = runs.get(conn, run.run_id)
    assert found is not None
    assert (found.start_time_us, found.end) == (None, None)


def test_a_move_is_kept_in_the_history(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1)
    runs.update(conn, run.run_id, status_message="between")
    change = TransitionRecord(RunState.STARTING, NOW_US + 5, "granted to host", "daemon")

    runs.move(conn, run.run_id, (change,), attempt=1, node="local/host")

    found = runs.get(conn, run.run_id)
    assert found is not None
    assert (found.state, found.attempt, found.node) == (RunState.STARTING, 1, "local/host")
    states = [transition.state for transition in transitions.of_run(conn, run.run_id)]
    assert states == [RunState.QUEUED, RunState.STARTING]


def test_update_says_not_found_when_there_is_no_such_run(conn: sqlite3.Connection) -> None:
    with pytest.raises(RunNotFound, match="iris_1_00000000"):
        runs.update(conn, "iris_1_00000000", node="x")
    with pytest.raises(RunNotFound):
        runs.get_spec(conn, "iris_1_00000000")
    with pytest.raises(RunNotFound):
        labels.set_tags(conn, "iris_1_00000000", {"a": "b"})


def test_runs_are_numbered_in_each_experiment_whatever_its_case(conn: sqlite3.Connection) -> None:
    first = add_run(conn, 1, "Iris")
    second = experiments.admit(conn, "DEFAULT", "iris", 2, NOW_US)
    other = add_run(conn, 3, "wine")

    assert (first.number, second.last_number, other.number) == (1, 2, 1)
    assert second.name == "Iris"
    assert experiments.total_runs(conn) == 3


def test_next_sequence_is_above_all_that_were_given(conn: sqlite3.Connection) -> None:
    assert runs.next_sequence(conn) == 1

    add_run(conn, 41)

    assert runs.next_sequence(conn) == 42


def test_every_change_of_a_run_is_an_event(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)
    after_submit = events.latest(conn)
    runs.update(conn, run_id(1), node="x")
    labels.set_tags(conn, run_id(1), {"a": "b"})
    labels.add_properties(conn, run_id(1), {"p": "q"})

    found = events.since(conn, after_submit, 10)

    assert [event.run_id for event in found] == [run_id(1)] * 3
    assert found[-1].cursor == events.latest(conn)


def test_set_tags_gives_all_tags_and_changes_nothing_when_they_are_set(
    conn: sqlite3.Connection,
) -> None:
    run = add_run(conn, 1, tags={"old": "1", "keep": "2"})

    after = labels.set_tags(conn, run.run_id, {"new": "3"}, remove=["old", "never there"])
    cursor = events.latest(conn)
    labels.set_tags(conn, run.run_id, {"new": "3"}, remove=["old"])

    assert after == {"keep": "2", "new": "3"}
    assert events.latest(conn) == cursor


def test_property_is_set_once(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1, properties={"git.commit": "abc"})

    conflicts = labels.add_properties(conn, run.run_id, {"git.commit": "other", "model": "m1"})
    repeated = labels.add_properties(conn, run.run_id, {"git.commit": "abc", "model": "m1"})

    found = runs.get(conn, run.run_id)
    assert found is not None
    assert found.properties == {"git.commit": "abc", "model": "m1"}
    assert (conflicts, repeated) == (("git.commit",), ())
