"""The smallest changes against the scheduler: applied, they let the run start; smaller ones do not.

Earns its place because a change is worked out from one truncated look at the queue: only a fresh
board that really has the change shows that the advice is true. A seeded bug must be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from runyard_daemon.core.amounts import DIMENSIONS
from runyard_daemon.core.remedy import Change, changes_at_once, changes_for_ever
from runyard_daemon.core.room import could_fit
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.types import (
    ActiveAttempt,
    AttemptRef,
    Node,
    NodeId,
    QueuedRun,
    Resources,
)

AMOUNTS = st.builds(
    Resources,
    cpu_millis=st.integers(0, 6),
    memory_bytes=st.integers(0, 6),
    gpus=st.integers(0, 3),
)


@dataclass(frozen=True, slots=True)
class World:
    """A queue and its nodes; the last run of the queue is the one in question."""

    nodes: tuple[Node, ...]
    active: tuple[ActiveAttempt, ...]
    queue: tuple[QueuedRun, ...]

    def board(self) -> Board:
        made = Board()
        for node in self.nodes:
            made.set_node(node)
        for attempt in self.active:
            made.hold(attempt)
        for run in self.queue:
            made.add_run(run)
        return made

    def starts(self, run_id: str) -> bool:
        return any(grant.run.run_id == run_id for grant in self.board().ready())

    def with_run(self, run: QueuedRun) -> World:
        others = tuple(other for other in self.queue if other.run_id != run.run_id)
        return replace(self, queue=(*others, run))

    def without(self, run_id: str) -> World:
        return replace(
            self,
            active=tuple(a for a in self.active if a.ref.run_id != run_id),
            queue=tuple(run for run in self.queue if run.run_id != run_id),
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes = tuple(
        Node(
            NodeId(f"n{number}"),
            f"n{number}",
            "local",
            draw(st.integers(0, 3)),
            draw(AMOUNTS),
            is_connected=draw(st.sampled_from([True, True, True, False])),
        )
        for number in range(draw(st.integers(1, 3)))
    )
    active = tuple(
        ActiveAttempt(
            AttemptRef(f"a{number}", 1, number), draw(st.sampled_from(nodes)).id, draw(AMOUNTS)
        )
        for number in range(draw(st.integers(0, 4)))
    )
    queue = tuple(
        QueuedRun(f"r{number}", "local", draw(st.integers(-1, 2)), number, draw(AMOUNTS))
        for number in range(1, draw(st.integers(1, 5)) + 1)
    )
    return World(nodes, active, queue)


def smaller_by_one(asked: Resources, change: Resources) -> list[Resources]:
    """Requests that give up one unit less on the one axis that a change is on; none: on several."""
    given_up = [d for d in DIMENSIONS if d.amount(asked) != d.amount(change)]
    if len(given_up) != 1:
        return []
    (dimension,) = given_up
    return [
        dimension.with_amount(asked, amount)
        for amount in range(dimension.amount(change) + 1, dimension.amount(asked))
    ]


def check_at_once(world: World, changes: Sequence[Change]) -> None:
    run = world.queue[-1]
    for change in changes:
        if change.request is not None:
            assert world.with_run(run._replace(request=change.request)).starts(run.run_id)
            for less in smaller_by_one(run.request, change.request):
                assert not world.with_run(run._replace(request=less)).starts(run.run_id), less
        if change.priority is not None:
            assert world.with_run(run._replace(priority=change.priority)).starts(run.run_id)
            for priority in range(run.priority, change.priority):
                assert not world.with_run(run._replace(priority=priority)).starts(run.run_id)
        for other in change.cancel:
            assert world.without(other).starts(run.run_id), other


@given(worlds())
@settings(max_examples=300, derandomize=True, database=None)
def test_change_that_is_advised_lets_the_run_start_at_once_and_a_smaller_one_does_not(
    world: World,
) -> None:
    run = world.queue[-1]

    changes = changes_at_once(world.board(), run.run_id)

    if world.starts(run.run_id):
        assert changes == ()
    check_at_once(world, changes)


@given(worlds())
@settings(max_examples=300, derandomize=True, database=None)
def test_run_that_one_smaller_amount_would_start_is_told_so(world: World) -> None:
    run = world.queue[-1]

    changes = changes_at_once(world.board(), run.run_id)

    for dimension in DIMENSIONS:
        for amount in range(dimension.amount(run.request)):
            smaller = dimension.with_amount(run.request, amount)
            if not world.starts(run.run_id) and world.with_run(
                run._replace(request=smaller)
            ).starts(run.run_id):
                assert any(change.request is not None for change in changes), smaller


@given(worlds())
@settings(max_examples=300, derandomize=True, database=None)
def test_change_for_a_run_too_large_for_every_node_makes_it_fit_an_empty_one(
    world: World,
) -> None:
    run = world.queue[-1]
    usable = [node for node in world.nodes if node.is_usable]
    if any(could_fit(run.request, node) for node in usable):
        return

    changes = changes_for_ever(run, usable)

    assert bool(changes) == any(node.slots for node in usable)
    for change in changes:
        assert change.request is not None
        assert not change.is_at_once
        assert any(could_fit(change.request, node) for node in usable)
        for less in smaller_by_one(run.request, change.request):
            assert not any(could_fit(less, node) for node in usable)


class IgnoresTheQueue(Board):
    """Seeded: advice that looks at what is free, and not at who is ahead."""

    def turn_of(self, run_id: str, **changes: object) -> object:
        run = self.waiting_run(run_id)
        assert run is not None
        alone = Board()
        for node in self.nodes_of(run.compute):
            alone.set_node(node)
            for held_id, held in self.held_on(node.id).items():
                alone.hold(ActiveAttempt(AttemptRef(held_id, 1, 1), node.id, held))
        alone.add_run(run)
        return alone.turn_of(run_id)


def test_advice_that_ignores_the_queue_is_found_out() -> None:
    def is_wrong(world: World) -> bool:
        board = IgnoresTheQueue()
        for node in world.nodes:
            board.set_node(node)
        for attempt in world.active:
            board.hold(attempt)
        for run in world.queue:
            board.add_run(run)
        try:
            check_at_once(world, changes_at_once(board, world.queue[-1].run_id))
        except AssertionError:
            return True
        return False

    find(
        worlds(),
        is_wrong,
        settings=settings(
            max_examples=5_000,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            Resources(cpu_millis=8_000),
            "with `--cpus 4` instead of 8 CPUs it would start at once; as it is, it lacks 4 CPUs",
        ),
        (
            Resources(gpus=1),
            "with no `--gpus` instead of 1 GPU it would start at once; as it is, it lacks 1 GPU",
        ),
    ],
)
def test_change_is_said_as_the_option_that_makes_it(request_: Resources, text: str) -> None:
    node = Node(NodeId("n"), "n", "local", 4, Resources(8_000, 0, 1))
    holder = ActiveAttempt(AttemptRef("a1", 1, 1), node.id, Resources(4_000, 0, 1))
    waiting = QueuedRun("r1", "local", 0, 1, request_)

    changes = changes_at_once(World((node,), (holder,), (waiting,)).board(), "r1")

    assert [change.text for change in changes] == [
        text,
        "it starts as soon as a1 has ended or is canceled",
    ]


def test_run_behind_one_that_drains_a_node_is_told_the_priority_that_passes_it() -> None:
    node = Node(NodeId("n"), "n", "local", 4, Resources(8_000))
    holder = ActiveAttempt(AttemptRef("a1", 1, 1), node.id, Resources(4_000))
    large = QueuedRun("r1", "local", 3, 1, Resources(8_000))
    small = QueuedRun("r2", "local", 0, 2, Resources(1_000))

    changes = changes_at_once(World((node,), (holder,), (large, small)).board(), "r2")

    assert [change.text for change in changes] == [
        "submitted with `--priority 4` it would start at once",
        "it starts as soon as r1 has ended or is canceled",
    ]
