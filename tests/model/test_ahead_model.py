"""Leases sent ahead, under returns, cancels, lost sessions and agents that die.

Earns its place because the promise is about interleavings: a lease that was given back, or that a
Hello did not name, is never begun afterwards, since its run may execute elsewhere by then. The
model has no queue of its own; it moves messages and time, and asks `runyard_agent.core.ahead`.
Each seeded bug replaces one step by a plausible mistake and must be found.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from runyard_agent.core.ahead import HOLD_S, LeasesAhead
from support.stateful import check

STEPS = 30
ROOM = 1
Grant = tuple[str, int]


class AheadMachine(RuleBasedStateMachine):
    """One node and its daemon; `mine` is what the daemon believes that the node may begin."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.epoch = 0
        self.queue: LeasesAhead[Grant] = LeasesAhead()
        self.sent: list[Grant] = []
        self.mine: set[Grant] = set()
        self.on_disk: list[Grant] = []
        self.begun: list[Grant] = []
        self.came: dict[Grant, float] = {}

    # ---- what a seeded bug replaces

    def give_back(self) -> list[Grant]:
        return self.queue.overdue(self.now)

    def hello(self) -> None:
        self.queue.clear()

    def on_cancel(self, grant: Grant) -> None:
        self.queue.drop(*grant)

    # ---- the world

    def begin(self) -> None:
        def has_room(grant: Grant) -> bool:
            if len(self.on_disk) >= ROOM:
                return False
            self.on_disk.append(grant)
            return True

        for grant in self.queue.begin(has_room, self.now):
            assert grant in self.mine, f"{grant} was begun after the daemon had it back"
            assert grant not in self.begun, f"{grant} was begun twice"
            self.begun.append(grant)

    @rule(run=st.sampled_from("abcd"))
    def grant(self, run: str) -> None:
        if any(known == run for known, _ in self.mine):
            return
        self.epoch += 1
        self.mine.add((run, self.epoch))
        self.sent.append((run, self.epoch))

    @precondition(lambda self: self.sent)
    @rule(is_doubled=st.booleans())
    def leases_arrive(self, is_doubled: bool) -> None:
        for grant in list(self.sent):
            self.lease_arrives(grant)
        if not is_doubled:
            self.sent.clear()

    def lease_arrives(self, grant: Grant) -> None:
        if grant not in self.on_disk and grant not in self.begun:
            self.came.setdefault(grant, self.now)
            self.queue.offer(*grant, grant, self.now)
        self.begin()

    @precondition(lambda self: self.on_disk)
    @rule()
    def run_ends(self) -> None:
        self.mine.discard(self.on_disk.pop(0))
        self.begin()

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for grant in self.give_back():
            self.mine.discard(grant)
        self.begin()

    @precondition(lambda self: self.mine - set(self.on_disk))
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(sorted(self.mine - set(self.on_disk))))
        if self.sent:  # the cancel comes after the lease, on the same stream
            self.leases_arrive(False)
        if grant not in self.on_disk:
            self.on_cancel(grant)
            self.mine.discard(grant)

    @rule(agent_dies=st.sampled_from([False, False, False, True]))
    def session_is_lost_and_comes_back(self, agent_dies: bool) -> None:
        self.sent.clear()
        if agent_dies:
            self.queue = LeasesAhead()
        self.begin()  # what begins meanwhile is on disk, and so in the Hello
        self.hello()
        self.mine &= set(self.on_disk)

    @invariant()
    def nothing_waits_while_there_is_room(self) -> None:
        late = any(self.now >= self.came[grant] + HOLD_S for grant in self.waiting())
        assert not self.waiting() or late or len(self.on_disk) >= ROOM

    def waiting(self) -> list[Grant]:
        return [w.lease for w in self.queue._waiting.values()]


class ReturnedButKept(AheadMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = LeasesAhead(hold_s=1e9)

    def give_back(self) -> list[Grant]:
        return [grant for grant in self.waiting() if self.now >= self.came[grant] + HOLD_S]


class HelloKeepsTheQueue(AheadMachine):
    def hello(self) -> None:
        return


class CancelIsOverheard(AheadMachine):
    def on_cancel(self, grant: Grant) -> None:
        return


def test_a_lease_that_the_daemon_has_back_is_never_begun() -> None:
    check(AheadMachine, 100, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize("bug", [ReturnedButKept, HelloKeepsTheQueue, CancelIsOverheard])
def test_the_model_finds(bug: type[AheadMachine]) -> None:
    with pytest.raises(AssertionError):
        check(bug, 1_000, steps=STEPS, is_seeded=True)
