from __future__ import annotations

import sqlite3

import pytest

from runyard_contract.errors import RequestIdInvalid, RequestIdReused
from runyard_daemon.store import requests
from runyard_daemon.store.requests import KEEP_S, request_key
from support.records import NOW_US, request_uuid

KEY = request_key("ada", "CreateRun", request_uuid(1))


def test_repeated_request_gets_the_first_answer(conn: sqlite3.Connection) -> None:
    assert requests.find(conn, KEY, "hash") is None

    requests.keep(conn, KEY, "hash", b"answer", NOW_US)

    assert requests.find(conn, KEY, "hash") == b"answer"


def test_request_id_is_the_same_in_any_case(conn: sqlite3.Connection) -> None:
    text = "ABCDEF01-2345-4678-9ABC-DEF012345678"
    requests.keep(conn, request_key("ada", "CreateRun", text), "hash", b"answer", NOW_US)

    again = request_key("ada", "CreateRun", text.lower())

    assert requests.find(conn, again, "hash") == b"answer"


def test_request_id_with_another_body_is_refused(conn: sqlite3.Connection) -> None:
    requests.keep(conn, KEY, "hash", b"answer", NOW_US)

    with pytest.raises(RequestIdReused) as caught:
        requests.find(conn, KEY, "other")

    assert caught.value.metadata["request_id"] == request_uuid(1)


@pytest.mark.parametrize("text", ["", "1", "x" * 36, "{" + request_uuid(1)[1:-1] + "}", "ä" * 36])
def test_request_id_that_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(RequestIdInvalid):
        request_key("ada", "CreateRun", text)


def test_prune_removes_what_is_older_than_seven_days_oldest_first(
    conn: sqlite3.Connection,
) -> None:
    keys = [request_key("ada", "CreateRun", request_uuid(n)) for n in range(5)]
    for n, key in enumerate(keys):
        requests.keep(conn, key, "hash", b"answer", NOW_US + n)

    in_time = requests.prune(conn, NOW_US + KEEP_S * 1_000_000)
    first = requests.prune(conn, NOW_US + KEEP_S * 1_000_000 + 4, limit=3)
    rest = requests.prune(conn, NOW_US + KEEP_S * 1_000_000 + 4, limit=3)

    kept = [requests.find(conn, key, "hash") for key in keys]
    assert (in_time, first, rest) == (0, 3, 1)
    assert kept == [None, None, None, None, b"answer"]
