"""Which build is newer and whom a daemon serves."""

from __future__ import annotations

import itertools

import pytest

from runyard_contract.compatibility import is_newer, mismatch, serves

# From old to new.
BUILDS = [
    "no build",
    "0.1.0",
    "0.1.0+src.0a1b2c3d",
    "0.1.0+src.1000.ffffffff",
    "0.1.0+src.2000.00000000",
    "0.1.0+src.2000.00000001",
    "0.1.1",
    "0.2.0",
    "0.10.0",
    "1.0.0",
]


@pytest.mark.parametrize(("old", "new"), list(itertools.combinations(BUILDS, 2)))
def test_builds_have_one_order(old: str, new: str) -> None:
    assert is_newer(new, old)
    assert not is_newer(old, new)
    assert not is_newer(new, new)


@pytest.mark.parametrize(
    ("daemon", "client", "is_served"),
    [
        ("0.5.0", "0.5.0", True),
        ("0.5.0", "0.4.9", True),
        ("0.5.0", "0.3.0", True),
        ("0.5.0", "0.2.9", False),
        ("0.5.0", "0.6.0", False),
        ("0.5.0", "0.5.3", True),
        ("0.5.3", "0.5.0", True),
        ("1.5.0", "0.5.0", False),
        ("0.5.0", "1.5.0", False),
        ("0.5.0+src.2.00000000", "0.5.0", True),
        ("0.5.0+src.2.00000000", "0.5.0+src.1.ffffffff", True),
        ("0.5.0+src.2.00000000", "0.5.0+src.3.00000000", False),
        ("0.5.0", "0.5.0+src.3.00000000", False),
        ("0.5.0", "garbage", False),
        ("garbage", "0.5.0", False),
    ],
)
def test_daemon_serves_its_minor_version_and_two_before(
    daemon: str, client: str, is_served: bool
) -> None:
    assert serves(daemon, client) is is_served


def test_refusal_names_which_side_to_upgrade_and_to_what() -> None:
    too_old = mismatch("0.9.1+src.1.00000000", "0.1.0")
    too_new = mismatch("0.1.0", "0.9.1")

    assert "this client" in too_old.hint
    assert "runyard==0.9.1`" in too_old.hint
    assert "the daemon" in too_new.hint
    assert "0.9.1" in too_new.hint
