from __future__ import annotations

import pytest

from runyard_daemon.core.lease import (
    HeldLease,
    LeaseDecision,
    LeaseTimes,
    OnDisconnect,
    WatchedLease,
)
from runyard_daemon.core.types import AttemptRef, BootTime

REF = AttemptRef("iris_1", 1, 7)
OLDER = AttemptRef("iris_1", 1, 6)
TIMES = LeaseTimes()


def held(policy: OnDisconnect = OnDisconnect.REQUEUE) -> HeldLease:
    return HeldLease(REF, policy, TIMES, counted_from=BootTime(100.0))


def watched(policy: OnDisconnect = OnDisconnect.REQUEUE) -> WatchedLease:
    return WatchedLease.granted(REF, policy, TIMES, BootTime(1_000.0))


def test_lease_defaults_are_those_of_the_documentation() -> None:
    assert (TIMES.ttl_s, TIMES.renewal_s, TIMES.margin_s) == (60.0, 10.0, 15.0)


def test_held_lease_is_over_one_ttl_after_the_answered_message_was_sent() -> None:
    lease = held()

    assert not lease.is_over(BootTime(159.9))
    assert lease.is_over(BootTime(160.0))
    assert lease.renew_at == 110.0


def test_held_lease_counts_from_sending_and_ignores_answers_that_come_late() -> None:
    lease = held().renewed(BootTime(130.0)).renewed(BootTime(120.0))

    assert lease.deadline == 190.0


def test_held_lease_never_ends_when_the_run_continues_without_the_daemon() -> None:
    lease = held(OnDisconnect.CONTINUE)

    assert lease.deadline is None
    assert lease.renew_at is None
    assert not lease.is_over(BootTime(1e9))


def test_watched_lease_is_replaced_only_after_ttl_and_margin() -> None:
    lease = watched()

    assert lease.decide(BootTime(1_075.0)) is LeaseDecision.NOTHING
    assert lease.decide(BootTime(1_075.1)) is LeaseDecision.REPLACE


def test_watched_lease_counts_from_processing_each_sign_of_life() -> None:
    lease = watched().heard(REF, BootTime(1_050.0))

    assert lease is not None
    assert lease.decide(BootTime(1_125.0)) is LeaseDecision.NOTHING
    assert lease.decide(BootTime(1_125.1)) is LeaseDecision.REPLACE


def test_watched_lease_does_not_answer_a_superseded_attempt() -> None:
    assert watched().heard(OLDER, BootTime(1_050.0)) is None


def test_watched_lease_gets_a_full_term_when_the_daemon_restarts() -> None:
    again = WatchedLease.granted(REF, OnDisconnect.REQUEUE, TIMES, BootTime(5_000.0))

    assert again.decide(BootTime(5_075.0)) is LeaseDecision.NOTHING


@pytest.mark.parametrize("now", [1_075.1, 1e9])
def test_run_that_continues_is_shown_as_out_of_touch_and_never_replaced(now: float) -> None:
    lease = watched(OnDisconnect.CONTINUE)

    assert lease.decide(BootTime(1_075.0)) is LeaseDecision.NOTHING
    assert lease.decide(BootTime(now)) is LeaseDecision.OUT_OF_TOUCH
