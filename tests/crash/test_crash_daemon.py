"""A few cases of each campaign of `make crash`, with another seed at each run."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from crash import daemon_kills
from crash.campaign import campaigns, run_case
from crash.cases import Over
from support import faults, small_disk

pytestmark = pytest.mark.slow

SEED = random.SystemRandom().randrange(1 << 32)
KNOWN = campaigns()


def run(name: str, number: int) -> None:
    """Runs a case; one behind the last step is as good as one that holds."""
    try:
        did = run_case(KNOWN[name], number, SEED)
    except Over:
        return
    assert did.total() > 0


needs_faults = pytest.mark.skipif(bool(faults.lacking()), reason=faults.lacking() or "possible")
needs_mount = pytest.mark.skipif(
    bool(small_disk.lacking()), reason=small_disk.lacking() or "possible"
)


def test_killed_at_random_moments_nothing_acknowledged_is_lost() -> None:
    short = partial(daemon_kills.at_random, kills=10)

    did = run_case(replace(KNOWN["daemon-kill-random"], run=short), 1, SEED)

    assert (did["kills"], did["runs"]) == (10, 10 * daemon_kills.RUNS_PER_KILL)


@needs_faults
def test_killed_at_a_durable_step_nothing_acknowledged_is_lost() -> None:
    run("daemon-kill-step", random.Random(SEED).randrange(1, 150))


@needs_faults
@pytest.mark.parametrize("name", ["daemon-enospc-step", "daemon-eio-step"])
def test_a_step_that_fails_is_told_and_harms_nothing(name: str) -> None:
    run(name, random.Random(SEED + 1).randrange(1, 150))


@needs_faults
def test_a_start_that_the_disk_refuses_says_so() -> None:
    run("daemon-enospc-step", random.Random(SEED + 3).randrange(3, 8))


@needs_faults
@pytest.mark.parametrize("name", ["daemon-disk-full", "daemon-read-only"])
def test_service_goes_on_by_itself_when_the_disk_is_mended(name: str) -> None:
    run(name, 1)


@needs_mount
def test_service_goes_on_by_itself_when_there_is_space_again() -> None:
    run("small-disk-full", 1)


@needs_faults
def test_clock_jumps_of_an_hour_expire_and_reorder_nothing() -> None:
    run("clock-jumps", 1)


@pytest.mark.parametrize("name", [name for name in KNOWN if name.startswith("fuzz-")])
def test_hostile_input_is_answered(name: str) -> None:
    run(name, random.Random(SEED + 2).randrange(1, 1000))
