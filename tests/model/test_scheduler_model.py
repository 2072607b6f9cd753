"""The scheduler's board against a brute-force reading of its rules, on small sizes.

Earns its place because the board is incremental (heaps with dead keys, claims remembered from the
last decision): only long random histories show that it decides what a fresh look at everything
would. Each seeded bug breaks one of its parts and must be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from runyard_daemon.core.room import Room
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.survey import Offer, Survey
from runyard_daemon.core.types import Node, NodeId, QueuedRun
from support.scheduler_machine import SchedulerMachine
from support.stateful import check

STEPS = 25


class FillsEveryGap(SchedulerMachine):
    """Seeded: a waiting run claims nothing, so small runs pass it for ever."""

    def make_board(self) -> Board:
        machine = self

        class Greedy(Board):
            def survey(self, compute: str) -> Survey:
                found = machine.world.decide(with_claims=False)
                grants = [
                    grant
                    for grant in found
                    if grant.run.compute == compute and self.waiting_run(grant.run.run_id)
                ]
                return Survey(tuple(grants), super().survey(compute).rooms, {})

        return Greedy()


class BooksNothing(SchedulerMachine):
    """Seeded: a grant does not take room on its node."""

    def make_board(self) -> Board:
        class Forgetful(Board):
            def _set_room(self, node_id: NodeId, room: Room) -> None:
                pass

        return Forgetful()


class IgnoresPriorityOfNewcomers(SchedulerMachine):
    """Seeded: a new run is looked at only where no claim stands, whatever its priority."""

    def make_board(self) -> Board:
        class Stubborn(Board):
            def _may_start(self, run: QueuedRun) -> bool:
                return not self._claims.get(run.compute) and super()._may_start(run)

        return Stubborn()


class MissesEndedAttempts(SchedulerMachine):
    """Seeded: room that is given back wakes nobody."""

    def make_board(self) -> Board:
        class Deaf(Board):
            def release(self, run_id: str) -> None:
                changed = set(self._changed)
                super().release(run_id)
                self._changed = changed

        return Deaf()


class GivesRoomOfRunsAheadAway(SchedulerMachine):
    """Seeded: room that a run ahead waits for goes to whoever is first in the queue."""

    def make_board(self) -> Board:
        class Careless(Board):
            def _promote(self, node: Node) -> None:
                pass

        return Careless()


class SendsAheadAnything(SchedulerMachine):
    """Seeded: what holds the node's slots is not looked at."""

    def make_board(self) -> Board:
        class Loose(Board):
            def _offers(self, members: Mapping[NodeId, Node]) -> Iterator[Offer]:
                for offer in super()._offers(members):
                    line = self._lines.get(offer.node.compute)
                    heads = line.heads() if line is not None else []
                    first = line.first_at(heads[0]) if line is not None and heads else None
                    yield replace(offer, request=first.request) if first is not None else offer

        return Loose()


class ForgetsThePlace(SchedulerMachine):
    """Seeded: a run that comes back is queued as the last."""

    def make_board(self) -> Board:
        class Late(Board):
            def come_back(self, run_id: str) -> None:
                super().come_back(run_id)
                run = self.waiting_run(run_id)
                if run is not None:
                    self.add_run(run._replace(sequence=run.sequence + 1_000))

        return Late()


class NeverUnlearns(SchedulerMachine):
    """Seeded: a long run does not end the sending ahead."""

    def make_board(self) -> Board:
        class Eager(Board):
            def note_end(self, node_id: NodeId, lasted_s: float) -> None:
                super().note_end(node_id, min(lasted_s, 0.5))

        return Eager()


def test_scheduler_decides_as_its_rules_say_in_random_histories() -> None:
    check(SchedulerMachine, 80, steps=STEPS, is_seeded=False)


@pytest.mark.slow
def test_scheduler_decides_as_its_rules_say_in_many_histories() -> None:
    check(SchedulerMachine, 1_000, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        FillsEveryGap,
        BooksNothing,
        pytest.param(IgnoresPriorityOfNewcomers, marks=pytest.mark.slow),
        MissesEndedAttempts,
        GivesRoomOfRunsAheadAway,
        SendsAheadAnything,
        ForgetsThePlace,
        NeverUnlearns,
    ],
)
def test_scheduler_model_finds_a_broken_rule(bug: type[SchedulerMachine]) -> None:
    with pytest.raises(AssertionError):
        check(bug, 6_000, steps=STEPS, is_seeded=True)
