"""Whose daemon serves a data directory: the decisions."""

from __future__ import annotations

import itertools
import re

import pytest

from runyard.succession import Step, interpreters, step
from runyard_contract.errors import VersionMismatch
from runyard_contract.home import DaemonRecord

MINE = "/venv/mine/bin/python"
THEIRS = "/venv/theirs/bin/python"


def last(version: str, interpreter: str = THEIRS) -> DaemonRecord:
    return DaemonRecord(1, version, interpreter, "/h/daemon.sock", "2026-01-01T00:00:00Z", "/h")


@pytest.mark.parametrize(
    ("own", "daemon", "is_embedded", "expected"),
    [
        ("0.5.0", "0.5.0", None, Step.USE),
        ("0.5.0", "0.5.1", None, Step.USE),
        ("0.5.0", "0.7.0", None, Step.USE),
        ("0.5.0", "0.5.0+src.9.00000000", None, Step.USE),
        ("0.5.1", "0.5.0", None, Step.ASK),
        ("0.9.0", "0.5.0", None, Step.ASK),
        ("0.5.0+src.9.00000000", "0.5.0+src.8.ffffffff", None, Step.ASK),
        ("0.5.1", "0.5.0", True, Step.REPLACE),
        ("2.0.0", "0.5.0", True, Step.REPLACE),
        ("0.5.0+src.9.00000000", "0.5.0+src.8.ffffffff", True, Step.REPLACE),
        # A person's daemon: what it serves is used, the rest is refused, see below.
        ("0.5.1", "0.5.0", False, Step.USE),
    ],
)
def test_what_a_client_does_about_a_daemon(
    own: str, daemon: str, is_embedded: bool | None, expected: Step
) -> None:
    assert step(own, daemon, is_embedded=is_embedded) is expected


@pytest.mark.parametrize(
    ("own", "daemon", "is_embedded", "hint"),
    [
        ("0.5.0", "0.8.0", None, "upgrade this client.*runyard==0.8.0"),
        ("0.5.0", "1.0.0", True, "upgrade this client.*runyard==1.0.0"),
        ("0.6.0", "0.5.0", False, "upgrade the daemon.*0.6.0"),
        ("0.5.0+src.9.00000000", "0.5.0", False, "upgrade the daemon"),
    ],
)
def test_what_does_not_fit_is_refused_by_what_to_upgrade(
    own: str, daemon: str, is_embedded: bool | None, hint: str
) -> None:
    with pytest.raises(VersionMismatch) as refused:
        step(own, daemon, is_embedded=is_embedded)

    assert re.search(hint, refused.value.hint)
    is_served = is_embedded is False
    assert ("daemon serve" in refused.value.message) is is_served


def test_no_two_clients_replace_each_others_daemon() -> None:
    builds = ["0.4.0", "0.5.0", "0.5.0+src.8.ffffffff", "0.5.0+src.9.00000000", "0.5.1"]

    for one, other in itertools.combinations(builds, 2):
        replaced = [
            own
            for own, daemon in ((one, other), (other, one))
            if step(own, daemon, is_embedded=True) is Step.REPLACE
        ]
        assert len(replaced) == 1, (one, other)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, (MINE,)),
        (last("0.5.0"), (MINE,)),
        (last("0.4.0"), (MINE,)),
        (last("0.6.0"), (THEIRS, MINE)),
        (last("0.5.0+src.9.00000000"), (THEIRS, MINE)),
        (last("0.6.0", interpreter=MINE), (MINE,)),
        # It would refuse this client.
        (last("0.9.0"), (MINE,)),
    ],
)
def test_newest_interpreter_is_started_where_none_runs(
    recorded: DaemonRecord | None, expected: tuple[str, ...]
) -> None:
    assert interpreters("0.5.0", MINE, recorded) == expected
