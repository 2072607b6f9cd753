from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from runyard_daemon.core.types import AttemptRef, Resources
from runyard_daemon.store import attempts
from runyard_daemon.store.attempts import AttemptRecord
from runyard_daemon.store.details import AttemptEndRecord
from support.records import NOW_US, add_run, run_id

FIRST = AttemptRecord(
    run_id=run_id(1),
    attempt=1,
    epoch=10,
    node_id="node1",
    grant_time_us=NOW_US,
    held=Resources(500, 1 << 30, 1),
)
SECOND = replace(FIRST, attempt=2, epoch=11)
END = AttemptEndRecord("EXITED", exit_code=0, working_directory=b"/tmp/\xff", metadata={"a": "b"})


@pytest.fixture(autouse=True)
def run(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)


def test_attempt_comes_back_as_it_was_stored(conn: sqlite3.Connection) -> None:
    full = replace(FIRST, phase="ENDED", lengths={"stdout.txt": 5}, end=END, is_sealed=True)

    attempts.insert(conn, full)

    assert attempts.get(conn, run_id(1), 1) == full
    assert attempts.current(conn, run_id(1)) == full


def test_update_changes_the_newest_attempt(conn: sqlite3.Connection) -> None:
    attempts.insert(conn, FIRST)

    assert attempts.update(conn, FIRST.ref, phase="EXITED", end=END, lengths={"order.idx": 16})

    expected = replace(FIRST, phase="EXITED", end=END, lengths={"order.idx": 16})
    assert attempts.current(conn, run_id(1)) == expected


@pytest.mark.parametrize(
    "stale",
    [FIRST.ref, AttemptRef(run_id(1), 2, 10), AttemptRef(run_id(1), 3, 12)],
    ids=["superseded", "other epoch", "never granted"],
)
def test_update_changes_nothing_when_the_token_is_not_the_newest(
    conn: sqlite3.Connection, stale: AttemptRef
) -> None:
    attempts.insert(conn, FIRST)
    attempts.insert(conn, SECOND)

    assert not attempts.update(conn, stale, phase="ENDED", is_sealed=True)

    assert attempts.of_run(conn, run_id(1)) == [FIRST, SECOND]


def test_insert_refuses_an_epoch_that_was_given(conn: sqlite3.Connection) -> None:
    attempts.insert(conn, FIRST)

    with pytest.raises(sqlite3.IntegrityError):
        attempts.insert(conn, replace(SECOND, epoch=FIRST.epoch))
