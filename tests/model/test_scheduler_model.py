"""The scheduler's board against a brute-force reading of its rules, on small sizes.

Earns its place because the board is incremental (heaps with dead keys, claims remembered from the
last decision): only long random histories show that it decides what a fresh look at everything
would. Each seeded bug breaks one of its parts and must be found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runyard_daemon.core.explain import explain_waiting
from runyard_daemon.core.room import Room
from runyard_daemon.core.scheduler import Board, place
from runyard_daemon.core.survey import Offer, Survey
from runyard_daemon.core.types import (
    ActiveAttempt,
    AttemptRef,
    Grant,
    Node,
    NodeId,
    QueuedRun,
    Resources,
    WallTime,
)

REQUESTS = st.sampled_from(
    [
        Resources(),
        Resources(cpu_millis=1_000),
        Resources(cpu_millis=2_000, memory_bytes=8),
        Resources(cpu_millis=4_000, memory_bytes=16),
        Resources(gpus=1),
        Resources(gpus=9),
    ]
)
SHAPES = st.sampled_from(
    [
        (1, Resources(1_000, 8, 0)),
        (2, Resources(4_000, 16, 0)),
        (3, Resources(4_000, 16, 2)),
        (8, Resources(2_000, 8, 0)),
    ]
)
COMPUTES = st.sampled_from(["local", "local", "local", "gpu"])
NODES = st.sampled_from(["n1", "n2", "n3", "g1"])
NOW = WallTime(0.0)


def order(run: QueuedRun) -> tuple[int, int]:
    return (-run.priority, run.sequence)


def holds(node: Node, free: tuple[int, Resources], request: Resources) -> bool:
    slots, have = free
    return (
        node.is_connected
        and node.is_accepting
        and slots >= 1
        and (not request.cpu_millis or request.cpu_millis <= have.cpu_millis)
        and (not request.memory_bytes or request.memory_bytes <= have.memory_bytes)
        and (not request.gpus or request.gpus <= have.gpus)
    )


class World:
    """The plain truth that the board must agree with."""

    def __init__(self) -> None:
        self.waiting: dict[str, QueuedRun] = {}
        self.active: dict[str, ActiveAttempt] = {}
        self.ahead: dict[str, list[QueuedRun]] = {name: [] for name in ("n1", "n2", "n3", "g1")}
        self.expected: dict[str, QueuedRun] = {}
        """Were ahead and have room now; their agent has not said that they began."""
        self.short: dict[str, int] = {}
        """How many short runs ended in a row, by node."""
        self.nodes: dict[str, Node] = {}

    def free(self, node: Node) -> tuple[int, Resources]:
        slots, have = node.slots, node.capacity
        for attempt in self.active.values():
            if attempt.node == node.id:
                slots, have = slots - 1, have - attempt.held
        return slots, have

    def start(self, grant: Grant) -> None:
        run = self.waiting.pop(grant.run.run_id)
        if grant.is_ahead:
            self.ahead[grant.node].append(run)
        else:
            self.occupy(run, grant.node)

    def occupy(self, run: QueuedRun, node: str) -> None:
        ref = AttemptRef(run.run_id, 1, run.sequence)
        self.active[run.run_id] = ActiveAttempt(ref, NodeId(node), run.request)

    def promote(self) -> None:
        """What agents do: begin what is ahead, in order, as soon as there is room."""
        for node in self.nodes.values():
            line = self.ahead[node.id]
            while line and holds(node, self.free(node), line[0].request):
                run = line.pop(0)
                self.expected[run.run_id] = run
                self.occupy(run, node.id)

    def may_send_ahead(
        self,
        run: QueuedRun,
        node: Node,
        grants: list[Grant],
        without_room: list[tuple[QueuedRun, bool]],
    ) -> bool:
        """The fifth rule."""
        asked = {a.held for a in self.active.values() if a.node == node.id}
        asked |= {g.held for g in grants if g.node == node.id and not g.is_ahead}
        count = self.count_ahead(node, grants)
        return (
            holds(node, (node.slots, node.capacity), run.request)
            and asked == {run.request}
            and all(other.request == run.request for other in self.ahead[node.id])
            and count < min(node.max_ahead, self.short.get(node.id, 0))
            and all(
                went_ahead and other.request == run.request
                for other, went_ahead in without_room
                if holds(node, (node.slots, node.capacity), other.request)
            )
        )

    def count_ahead(self, node: Node, grants: list[Grant]) -> int:
        sent = [grant for grant in grants if grant.node == node.id and grant.is_ahead]
        return len(self.ahead[node.id]) + len(sent)

    def decide(self, *, with_claims: bool = True) -> list[Grant]:
        """Reads the scheduler's five rules literally."""
        return [
            grant
            for compute in ("gpu", "local")
            for grant in self.decide_one(compute, with_claims=with_claims)
        ]

    def decide_one(self, compute: str, *, with_claims: bool) -> list[Grant]:
        grants: list[Grant] = []
        without_room: list[tuple[QueuedRun, bool]] = []
        nodes = [node for node in self.nodes.values() if node.compute == compute]
        free = {node.id: self.free(node) for node in nodes}
        for run in sorted(self.waiting.values(), key=order):
            if run.compute != compute:
                continue
            now = [
                node
                for node in nodes
                if holds(node, free[node.id], run.request)
                and not self.ahead[node.id]
                and not any(
                    with_claims and holds(node, (node.slots, node.capacity), other.request)
                    for other, _ in without_room
                )
            ]
            if now:
                node = min(now, key=lambda n: self.rank(free[n.id], run.request, n))
                slots, have = free[node.id]
                free[node.id] = (slots - 1, have - run.request)
                grants.append(Grant(run, node.id, run.request))
                continue
            takers = [n for n in nodes if self.may_send_ahead(run, n, grants, without_room)]
            without_room.append((run, bool(takers)))
            if takers:
                node = min(takers, key=lambda n: (self.count_ahead(n, grants), n.id))
                grants.append(Grant(run, node.id, run.request, is_ahead=True))
        return grants

    @staticmethod
    def rank(free: tuple[int, Resources], request: Resources, node: Node) -> tuple[object, ...]:
        left = free[1] - request
        return (left.gpus, left.cpu_millis, left.memory_bytes, free[0], node.id)


class SchedulerMachine(RuleBasedStateMachine):
    """Runs come, go and end; nodes come, go, drain and change; the board decides after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.board = self.make_board()
        self.sequence = 0

    def make_board(self) -> Board:
        return Board()

    @rule(
        compute=COMPUTES,
        priority=st.sampled_from([0, 0, 0, 5]),
        request=REQUESTS,
        count=st.sampled_from([1, 1, 3]),
    )
    def submit(self, compute: str, priority: int, request: Resources, count: int) -> None:
        self.submit_runs(compute, priority, request, count)
        self.settle()

    def submit_runs(self, compute: str, priority: int, request: Resources, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            run = QueuedRun(f"r{self.sequence}", compute, priority, self.sequence, request)
            self.world.waiting[run.run_id] = run
            self.board.add_run(run)

    @precondition(lambda self: self.world.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.world.waiting)))
        del self.world.waiting[run_id]
        self.board.remove_run(run_id)
        self.settle()

    @precondition(lambda self: self.world.active)
    @rule(
        data=st.data(),
        is_requeued=st.sampled_from([False, False, False, True]),
        lasted_s=st.sampled_from([0.1, 0.1, 0.1, 0.999, 1.0, 60.0]),
    )
    def end_attempt(self, data: st.DataObject, is_requeued: bool, lasted_s: float) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.world.active)))
        attempt = self.world.active.pop(run_id)
        self.world.expected.pop(run_id, None)
        self.learn(attempt.node, lasted_s)
        self.board.release(run_id)
        if is_requeued:
            run = QueuedRun(run_id, "local", 0, attempt.ref.epoch, attempt.held)
            self.world.waiting[run_id] = run
            self.board.add_run(run)
        self.settle()

    def learn(self, node: NodeId, lasted_s: float) -> None:
        short = self.world.short
        short[node] = short.get(node, 0) + 1 if lasted_s < 1.0 else 0
        self.board.note_end(node, lasted_s)

    @precondition(lambda self: self.world.active)
    @rule(data=st.data(), count=st.integers(2, 4))
    def end_many_short(self, data: st.DataObject, count: int) -> None:
        """What opens the way ahead: several short runs of one node end in a row."""
        node = data.draw(st.sampled_from(sorted({a.node for a in self.world.active.values()})))
        mine = sorted(r for r, a in self.world.active.items() if a.node == node)
        for run_id in mine[:count]:
            self.end_attempt_of(run_id)
        self.settle()

    @precondition(lambda self: not self.world.active)
    @rule(request=REQUESTS, count=st.integers(3, 8))
    def burst(self, request: Resources, count: int) -> None:
        """Many of the same, the first of them short: random steps alone seldom get that far."""
        name = "n1"
        node = Node(NodeId(name), name, "local", 2, Resources(4_000, 16, 9), max_ahead=4)
        self.world.nodes[name] = node
        self.board.set_node(node)
        self.submit_runs("local", 0, request, count)
        self.settle()
        mine = sorted(r for r, a in self.world.active.items() if a.node == name)
        for run_id in mine[:2]:
            self.end_attempt_of(run_id)
            self.settle()

    def end_attempt_of(self, run_id: str) -> None:
        attempt = self.world.active.pop(run_id)
        self.world.expected.pop(run_id, None)
        self.learn(attempt.node, 0.1)
        self.board.release(run_id)

    @precondition(lambda self: any(self.world.ahead.values()))
    @rule(data=st.data())
    def begin_before_the_end_is_heard(self, data: st.DataObject) -> None:
        """The agent says that a run ahead began, in the message before the end of another."""
        node = data.draw(st.sampled_from(sorted(n for n, line in self.world.ahead.items() if line)))
        run = self.world.ahead[node][0]
        same = [
            run_id
            for run_id, attempt in sorted(self.world.active.items())
            if attempt.node == node and attempt.held == run.request
        ]
        if not same:
            return
        self.world.ahead[node].pop(0)
        self.world.occupy(run, node)
        self.board.begin(run.run_id)
        self.end_attempt_of(same[0])
        self.settle()

    @precondition(lambda self: self.world.expected)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.world.expected)))
        del self.world.expected[run_id]
        self.board.begin(run_id)
        self.board.come_back(run_id)  # nonsense after it began: changes nothing
        self.settle()

    @precondition(lambda self: self.world.expected or any(self.world.ahead.values()))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """The agent could not begin a run in time, or does not know it any more."""
        sent = {run.run_id: node for node, line in self.world.ahead.items() for run in line}
        known = sorted([*sent, *self.world.expected])
        run_id = data.draw(st.sampled_from(known))
        if run_id in sent:
            line = self.world.ahead[sent[run_id]]
            run = next(run for run in line if run.run_id == run_id)
            line.remove(run)
            self.world.short[sent[run_id]] = 0
        else:
            run = self.world.expected.pop(run_id)
            self.world.short[self.world.active.pop(run_id).node] = 0
        self.world.waiting[run_id] = run
        self.board.come_back(run_id)
        self.settle()

    @rule(
        name=NODES,
        shape=SHAPES,
        state=st.sampled_from(["up", "up", "up", "away", "draining"]),
        max_ahead=st.sampled_from([0, 2, 4]),
    )
    def set_node(self, name: str, shape: tuple[int, Resources], state: str, max_ahead: int) -> None:
        if any(attempt.node == name for attempt in self.world.active.values()):
            node = self.world.nodes[name]
            shape = (node.slots, node.capacity)  # a busy node does not change its size here
        node = Node(
            NodeId(name),
            name,
            "gpu" if name == "g1" else "local",
            *shape,
            is_connected=state != "away",
            is_accepting=state != "draining",
            max_ahead=max_ahead,
        )
        self.world.nodes[name] = node
        self.board.set_node(node)
        self.settle()

    def settle(self) -> None:
        """Lets the board decide, and holds the decision against everything that is promised."""
        self.world.promote()
        expected = self.world.decide()
        before = list(self.world.waiting.values())
        said_ready = {run.run_id for run in before if self.says_it_starts(run.run_id)}
        fresh = self.place_shuffled()

        grants = self.board.ready()

        assert sorted(grants, key=lambda g: order(g.run)) == sorted(
            expected, key=lambda g: order(g.run)
        )
        if not any(self.world.ahead.values()):
            assert sorted(fresh, key=lambda g: order(g.run)) == sorted(
                (grant for grant in grants if not grant.is_ahead), key=lambda g: order(g.run)
            )
        assert said_ready == {grant.run.run_id for grant in grants if not grant.is_ahead}
        for grant in grants:
            self.world.start(grant)
        self.check_capacity()
        self.check_nobody_was_overtaken(grants)
        self.check_explanations()

    def says_it_starts(self, run_id: str) -> bool:
        explanation = explain_waiting(self.board, run_id, NOW)
        return any(verdict.has_room for verdict in explanation.verdicts)

    def place_shuffled(self) -> tuple[Grant, ...]:
        queue = list(self.world.waiting.values())
        nodes = list(self.world.nodes.values())
        active = list(self.world.active.values())
        shuffle = random.Random(len(queue) * 31 + len(active)).shuffle
        for items in (queue, nodes, active):
            shuffle(items)
        return place(queue, nodes, active)

    def check_capacity(self) -> None:
        for node in self.world.nodes.values():
            slots, have = self.world.free(node)
            assert slots >= 0, (node, self.world.active)
            assert min(have.cpu_millis, have.memory_bytes, have.gpus) >= 0, node

    def check_nobody_was_overtaken(self, grants: tuple[Grant, ...]) -> None:
        """No run got a node, now, that an earlier waiting run could have had later."""
        for grant in grants:
            node = self.world.nodes[grant.node]
            for run in self.world.waiting.values():
                if run.compute == node.compute and order(run) < order(grant.run):
                    assert not holds(node, (node.slots, node.capacity), run.request), (run, grant)

    def check_explanations(self) -> None:
        for compute in ("local", "gpu"):
            line = sorted(
                (run for run in self.world.waiting.values() if run.compute == compute), key=order
            )
            for index, run in enumerate(line):
                explanation = explain_waiting(self.board, run.run_id, NOW)
                assert not any(verdict.has_room for verdict in explanation.verdicts), run
                assert explanation.position == index + 1
                assert explanation.ahead == tuple(r.run_id for r in line[:index][:10])

    def teardown(self) -> None:
        """Nothing starves: once attempts end and no run comes, whatever can start has started."""
        for _ in range(200):
            if not self.world.active:
                break
            first = min(self.world.active)
            self.end_attempt_of(first)
            self.settle()
        stuck = [
            run
            for run in self.world.waiting.values()
            for node in self.world.nodes.values()
            if node.compute == run.compute and holds(node, (node.slots, node.capacity), run.request)
        ]
        assert not stuck


class FillsEveryGap(SchedulerMachine):
    """Seeded: a waiting run claims nothing, so small runs pass it for ever."""

    def make_board(self) -> Board:
        machine = self

        class Greedy(Board):
            def survey(self, compute: str) -> Survey:
                found = machine.world.decide(with_claims=False)
                grants = [grant for grant in found if grant.run.compute == compute]
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
                    self.add_run(replace(run, sequence=run.sequence + 1_000))

        return Late()


class NeverUnlearns(SchedulerMachine):
    """Seeded: a long run does not end the sending ahead."""

    def make_board(self) -> Board:
        class Eager(Board):
            def note_end(self, node_id: NodeId, lasted_s: float) -> None:
                super().note_end(node_id, min(lasted_s, 0.5))

        return Eager()


def check(machine: type[RuleBasedStateMachine], examples: int, *, is_seeded: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phase.generate] if is_seeded else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_scheduler_decides_as_its_rules_say_in_random_histories() -> None:
    check(SchedulerMachine, 80, is_seeded=False)


@pytest.mark.slow
def test_scheduler_decides_as_its_rules_say_in_many_histories() -> None:
    check(SchedulerMachine, 1_000, is_seeded=False)


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
    # KeyError: board and world are apart after the wrong decision, and the teardown meets that.
    with pytest.raises((AssertionError, KeyError)):
        check(bug, 6_000, is_seeded=True)
