"""Which lock `runyard environment lock` prints."""

from __future__ import annotations

import pytest

from runyard.cli.environment import choose_lock
from runyard_contract.errors import SpecInvalid, StateNotAllowed
from runyardpb.v1.environments_pb2 import Environment, EnvironmentLock


def _locked(*platforms: str) -> Environment:
    return Environment(
        name="workspaces/lab/environments/iris/versions/2",
        version=2,
        locks=[EnvironmentLock(platform=platform, text=platform) for platform in platforms],
    )


def test_the_only_lock_needs_no_platform() -> None:
    assert choose_lock(_locked("linux-64"), None).text == "linux-64"


def test_a_platform_chooses_among_several() -> None:
    assert choose_lock(_locked("linux-64", "linux-aarch64"), "linux-aarch64").text == (
        "linux-aarch64"
    )


def test_several_locks_without_a_platform_are_listed() -> None:
    with pytest.raises(SpecInvalid, match="has 2 locks: linux-64, linux-aarch64") as error:
        choose_lock(_locked("linux-64", "linux-aarch64"), None)

    assert "--platform linux-64" in error.value.hint


def test_a_platform_without_a_lock_names_those_that_have_one() -> None:
    with pytest.raises(StateNotAllowed, match="no lock for osx-64; it is locked for linux-64"):
        choose_lock(_locked("linux-64"), "osx-64")


def test_an_environment_without_any_lock_says_how_to_make_one() -> None:
    with pytest.raises(StateNotAllowed, match="iris version 2 has no lock yet") as error:
        choose_lock(_locked(), None)

    assert "runyard environment build iris -t TARGET" in error.value.hint
