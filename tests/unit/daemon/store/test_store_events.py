from __future__ import annotations

import sqlite3

from runyard_daemon.store import events
from support.records import add_run, run_id


def test_since_gives_what_is_new_in_order(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)
    cursor = events.latest(conn)
    add_run(conn, 2)
    add_run(conn, 3, "wine")

    found = events.since(conn, cursor, 10)

    assert [(event.run_id, event.experiment) for event in found] == [
        (run_id(2), "iris"),
        (run_id(3, "wine"), "wine"),
    ]
    assert events.since(conn, found[0].cursor, 10) == found[1:]
    assert events.since(conn, cursor, 1) == found[:1]


def test_prune_keeps_the_newest_and_makes_older_cursors_expire(conn: sqlite3.Connection) -> None:
    for n in range(1, 11):
        add_run(conn, n)
    newest = events.latest(conn)

    removed = events.prune(conn, keep=4, limit=5) + events.prune(conn, keep=4, limit=5)

    assert removed == 6
    assert [event.run_id for event in events.since(conn, newest - 4, 10)] == [
        run_id(n) for n in range(7, 11)
    ]
    assert events.is_kept(conn, newest - 4)
    assert not events.is_kept(conn, newest - 5)


def test_cursor_never_goes_back_when_all_was_pruned(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)
    add_run(conn, 2)
    before = events.latest(conn)

    events.prune(conn, keep=0)
    add_run(conn, 3)

    assert events.latest(conn) == before + 1


def test_every_cursor_is_kept_when_nothing_happened(conn: sqlite3.Connection) -> None:
    assert events.latest(conn) == 0
    assert events.is_kept(conn, 0)
    assert events.since(conn, 0, 10) == []
