"""Leases under delay, loss, restarts and clocks that have nothing to do with each other.

Earns its place because no example-based test covers the interleavings: the two halves of the lease
arithmetic are exactly what keeps two attempts of one run from executing at the same time. The model
has no arithmetic of its own; it moves messages and time, and asks `runyard_daemon.core.lease`.
Each seeded bug replaces one step by a plausible mistake and must be found.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from runyard_daemon.core.attempts import is_current
from runyard_daemon.core.lease import (
    HeldLease,
    LeaseDecision,
    LeaseTimes,
    OnDisconnect,
    WatchedLease,
)
from runyard_daemon.core.types import AttemptRef, BootTime
from support.stateful import check

STEPS = 30
TIMES = LeaseTimes()
STOP_S = 10.0  # what the supervisor needs to end all processes; below the margin
DAEMON_CLOCK = 5_000.0
DELAYS = st.sampled_from([0.0, 20.0, 45.0, None])  # None: the message is lost
# Results are sent until they arrive.
RESULT_DELAYS = st.sampled_from([0.0, 20.0, 90.0, 100.0, 140.0])
POLICY = OnDisconnect.REQUEUE


@dataclass
class Attempt:
    """An attempt on a node of its own, with a clock of its own."""

    lease: HeldLease
    clock: float
    stops_at: float | None = None

    def own_time(self, now: float) -> BootTime:
        return BootTime(now + self.clock)


class LeaseMachine(RuleBasedStateMachine):
    """One run, its daemon, and every attempt of it that may be alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.attempts: dict[int, Attempt] = {}
        self.has_result = False
        self.watched = self.grant(epoch=1, heartbeat_age=0.0, delay=0.0)
        self.pass_time(0.0)

    # ---- what a seeded bug replaces

    def answered(self, attempt: Attempt, sent_at: BootTime) -> HeldLease:
        return attempt.lease.renewed(sent_at)

    def fresh(self, ref: AttemptRef, sent_at: BootTime, received_at: BootTime) -> HeldLease:
        return HeldLease(ref, POLICY, TIMES, counted_from=sent_at)

    def processed(self, ref: AttemptRef) -> WatchedLease | None:
        return self.watched.heard(ref, self.daemon_time())

    def restarted(self) -> WatchedLease:
        return WatchedLease.granted(self.watched.ref, POLICY, TIMES, self.daemon_time())

    def takes_result(self, ref: AttemptRef) -> bool:
        return is_current(ref, self.watched.ref)

    def daemon_times(self) -> LeaseTimes:
        return TIMES

    # ---- the world

    def daemon_time(self) -> BootTime:
        return BootTime(self.now + DAEMON_CLOCK)

    def at(self, delay: float | None, action: Callable[[], None]) -> None:
        if delay is not None:
            self.count += 1
            heapq.heappush(self.events, (self.now + delay, self.count, action))

    def grant(self, epoch: int, heartbeat_age: float, delay: float | None) -> WatchedLease:
        """Grants to another node, whose newest processed heartbeat was sent some time ago."""
        ref = AttemptRef("iris_1", epoch, epoch)
        clock = 1_000.0 * epoch
        sent_at = BootTime(self.now - heartbeat_age + clock)

        def arrives() -> None:
            received_at = BootTime(self.now + clock)
            lease = self.fresh(ref, sent_at, received_at)
            if not lease.is_over(received_at):
                self.attempts[epoch] = Attempt(lease, clock)

        self.at(delay, arrives)
        return WatchedLease.granted(ref, POLICY, self.daemon_times(), self.daemon_time())

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.now = min([end, *(when for when, _, _ in self.events[:1]), *self.watchdogs()])
            self.run_watchdogs()
            if self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            elif self.now >= end:
                return

    def watchdogs(self) -> list[float]:
        """When something happens to an attempt by itself."""
        due = []
        for attempt in self.attempts.values():
            deadline = attempt.lease.deadline
            assert deadline is not None
            due.append(deadline - attempt.clock if attempt.stops_at is None else attempt.stops_at)
        return [max(when, self.now) for when in due]

    def run_watchdogs(self) -> None:
        for epoch, attempt in list(self.attempts.items()):
            if attempt.stops_at is not None and attempt.stops_at <= self.now:
                del self.attempts[epoch]
            elif attempt.stops_at is None and attempt.lease.is_over(attempt.own_time(self.now)):
                attempt.stops_at = self.now + STOP_S

    @precondition(lambda self: self.attempts)
    @rule(there=DELAYS, back=DELAYS)
    def renew(self, there: float | None, back: float | None) -> None:
        for epoch, attempt in self.attempts.items():
            sent_at = attempt.own_time(self.now)
            ref = attempt.lease.ref
            self.at(there, lambda e=epoch, r=ref, s=sent_at: self.on_renewal(e, r, s, back))

    def on_renewal(
        self, epoch: int, ref: AttemptRef, sent_at: BootTime, back: float | None
    ) -> None:
        watched = self.processed(ref)
        if watched is not None:
            self.watched = watched
            self.at(back, lambda: self.on_answer(epoch, sent_at))

    def on_answer(self, epoch: int, sent_at: BootTime) -> None:
        attempt = self.attempts.get(epoch)
        if attempt is not None and attempt.stops_at is None:
            attempt.lease = self.answered(attempt, sent_at)

    @precondition(lambda self: self.attempts)
    @rule(delay=RESULT_DELAYS)
    def finish(self, delay: float) -> None:
        for attempt in self.attempts.values():
            self.at(delay, lambda ref=attempt.lease.ref: self.on_result(ref))
        self.attempts.clear()

    def on_result(self, ref: AttemptRef) -> None:
        self.has_result = self.has_result or self.takes_result(ref)

    @rule(
        seconds=st.sampled_from([1.0, 9.0, 30.0, 66.0, 85.0]),
        heartbeat_age=st.sampled_from([0.0, 25.0]),
        delay=DELAYS,
    )
    def wait(self, seconds: float, heartbeat_age: float, delay: float | None) -> None:
        self.pass_time(seconds)
        decision = self.watched.decide(self.daemon_time())
        if decision is LeaseDecision.REPLACE and not self.has_result:
            self.watched = self.grant(self.watched.ref.epoch + 1, heartbeat_age, delay)
            self.pass_time(0.0)

    @rule()
    def restart_daemon(self) -> None:
        self.watched = self.restarted()

    @invariant()
    def at_most_one_attempt_is_alive(self) -> None:
        assert len(self.attempts) <= 1, (self.now, self.attempts, self.watched)

    @invariant()
    def no_attempt_is_alive_once_the_run_has_its_result(self) -> None:
        assert not (self.has_result and self.attempts), (self.now, self.attempts, self.watched)


class CountsFromReceiving(LeaseMachine):
    def answered(self, attempt: Attempt, sent_at: BootTime) -> HeldLease:
        return attempt.lease.renewed(attempt.own_time(self.now))


class StartsFromReceiving(LeaseMachine):
    def fresh(self, ref: AttemptRef, sent_at: BootTime, received_at: BootTime) -> HeldLease:
        return HeldLease(ref, POLICY, TIMES, counted_from=received_at)


class ExpiresAtRestart(LeaseMachine):
    def restarted(self) -> WatchedLease:
        return replace(self.watched, expires=BootTime(self.daemon_time() - 1))


class TakesAnyEpoch(LeaseMachine):
    def takes_result(self, ref: AttemptRef) -> bool:
        return True


class HasNoMargin(LeaseMachine):
    def takes_result(self, ref: AttemptRef) -> bool:
        return is_current(ref, self.watched.ref)

    def daemon_times(self) -> LeaseTimes:
        return replace(TIMES, margin_s=0.0)


def test_lease_keeps_one_attempt_alive_when_messages_are_late_or_lost() -> None:
    check(LeaseMachine, 400, steps=STEPS, is_seeded=False)


@pytest.mark.slow
def test_lease_keeps_one_attempt_alive_in_many_schedules() -> None:
    check(LeaseMachine, 2_000, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(CountsFromReceiving, marks=pytest.mark.slow),
        StartsFromReceiving,
        ExpiresAtRestart,
        TakesAnyEpoch,
        HasNoMargin,
    ],
)
def test_lease_model_finds_two_live_attempts_when_a_rule_is_broken(
    bug: type[LeaseMachine],
) -> None:
    with pytest.raises(AssertionError, match="Attempt"):
        check(bug, 6_000, steps=STEPS, is_seeded=True)
