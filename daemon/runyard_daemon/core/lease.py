"""How long an attempt may go on without word from the daemon, and when the daemon may replace it.

Both halves of the arithmetic, each with its own machine's BootTime; no instant of one clock ever
reaches the other machine's arithmetic. With them, two attempts of one run never execute at the same
time, whatever is delayed, lost or restarted:

- The executing side counts its deadline from *sending* the message that the daemon answered, never
  from receiving the answer. A fresh lease names such a message too: the newest of this agent that
  the daemon had processed when it granted. The executing side is the supervisor's watchdog, so that
  a stopped agent keeps nothing alive.
- The daemon replaces an attempt only after its own clock at *processing* that message + ttl +
  margin. The margin is the time to stop the processes in.
- After a restart of the daemon, every lease gets a full new ttl + margin.
- A renewal of a superseded attempt is refused and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from runyard_daemon.core.types import AttemptRef, BootTime


class OnDisconnect(StrEnum):
    """What happens to a run whose node is out of touch."""

    CONTINUE = "continue"
    """It goes on, for days if need be, and is never replaced unasked. For machines that return."""
    REQUEUE = "requeue"
    """Its node stops it when the lease ends, then the daemon replaces it. For nodes that vanish."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The lease's durations, in seconds of boot time."""

    ttl_s: float = 60.0
    """How long a lease holds, from the sending of what renews it."""
    renewal_s: float = 10.0
    """How often it is renewed."""
    margin_s: float = 15.0
    """What the daemon waits longer: the time for stopping the processes."""


class LeaseDecision(StrEnum):
    """What the daemon does about an attempt that it may not have heard of for a while."""

    NOTHING = "nothing"
    OUT_OF_TOUCH = "out of touch"
    """Show the run as NOT_RESPONDING; nothing else."""
    REPLACE = "replace"
    """No process of the attempt lives any more: its run may be granted again."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """The executing side: until when an attempt may go on, by its own node's clock."""

    ref: AttemptRef
    policy: OnDisconnect
    times: LeaseTimes
    counted_from: BootTime
    """When the newest answered message was sent."""

    def renewed(self, sent_at: BootTime) -> HeldLease:
        """Takes over an answer to the message sent at `sent_at`; an older one is ignored."""
        return replace(self, counted_from=max(self.counted_from, sent_at))

    @property
    def deadline(self) -> BootTime | None:
        """From when on no process of the attempt may be alive, but for stopping it; None: never."""
        if self.policy is OnDisconnect.CONTINUE:
            return None
        return BootTime(self.counted_from + self.times.ttl_s)

    def is_over(self, now: BootTime) -> bool:
        """Says whether the attempt must be stopped, or, if it has not begun, must not begin."""
        deadline = self.deadline
        return deadline is not None and now >= deadline

    @property
    def renew_at(self) -> BootTime | None:
        """When the next renewal is due; None: this lease needs none."""
        if self.policy is OnDisconnect.CONTINUE:
            return None
        return BootTime(self.counted_from + self.times.renewal_s)


@dataclass(frozen=True, slots=True)
class WatchedLease:
    """The daemon's side: until when an attempt must be taken to be alive, by the daemon's clock."""

    ref: AttemptRef
    policy: OnDisconnect
    times: LeaseTimes
    expires: BootTime

    @classmethod
    def granted(
        cls, ref: AttemptRef, policy: OnDisconnect, times: LeaseTimes, now: BootTime
    ) -> WatchedLease:
        """Begins to watch an attempt that is granted now.

        Also what a restarted daemon does for every attempt on record: none expires at once.
        """
        return cls(ref, policy, times, _full_term(times, now))

    def heard(self, ref: AttemptRef, now: BootTime) -> WatchedLease | None:
        """Processes a sign of life of `ref` at `now`.

        None: the sign is of an attempt that is no longer current. It must not be answered; its
        sender is told to stop it.
        """
        if ref != self.ref:
            return None
        return replace(self, expires=max(self.expires, _full_term(self.times, now)))

    def decide(self, now: BootTime) -> LeaseDecision:
        """Says what is due at `now`; asking more often changes nothing."""
        if now <= self.expires:
            return LeaseDecision.NOTHING
        if self.policy is OnDisconnect.CONTINUE:
            return LeaseDecision.OUT_OF_TOUCH
        return LeaseDecision.REPLACE


def _full_term(times: LeaseTimes, now: BootTime) -> BootTime:
    return BootTime(now + times.ttl_s + times.margin_s)
