"""Random histories of a queue and its nodes, with the scheduler's board beside the plain truth."""

from __future__ import annotations

import itertools
import random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from runyard_daemon.core.explain import explain_waiting
from runyard_daemon.core.scheduler import Board, place
from runyard_daemon.core.types import Grant, Node, NodeId, QueuedRun, Resources, WallTime
from support.scheduler_world import World, holds, order

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


class SchedulerMachine(RuleBasedStateMachine):
    """Runs come, go and end; nodes come, go, drain and change; the board decides after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.board = self.make_board()
        self.sequence = 0
        self.is_apart = False
        """World and board disagree: a check failed."""

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
        self.take_back(data.draw(st.sampled_from(known)))
        self.settle()

    def take_back(self, run_id: str) -> None:
        sent = {run.run_id: node for node, line in self.world.ahead.items() for run in line}
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
        self.is_apart = True
        self.world.promote()
        before = list(self.world.waiting.values())
        said_ready = {run.run_id for run in before if self.says_it_starts(run.run_id)}
        fresh = self.place_shuffled()
        nobody_is_ahead = not any(self.world.ahead.values())

        grants = self.board.ready()

        first, *later = self.world.follow_rules()
        assert sorted(grants, key=lambda g: order(g.run)) == sorted(
            itertools.chain(first, *later), key=lambda g: order(g.run)
        )
        started = [grant for grant in first if not grant.is_ahead]
        if nobody_is_ahead:
            assert sorted(fresh, key=lambda g: order(g.run)) == sorted(
                started, key=lambda g: order(g.run)
            )
        assert said_ready == {grant.run.run_id for grant in started}
        self.check_capacity()
        self.check_nobody_was_overtaken(grants)
        self.check_explanations()
        self.is_apart = False

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
        if self.is_apart:
            return
        for _ in range(200):
            if self.world.active:
                self.end_attempt_of(min(self.world.active))
            elif sent := [run for line in self.world.ahead.values() for run in line]:
                self.take_back(sent[0].run_id)  # an agent gives back what it can't begin
            else:
                break
            self.settle()
        stuck = [
            run
            for run in self.world.waiting.values()
            for node in self.world.nodes.values()
            if node.compute == run.compute and holds(node, (node.slots, node.capacity), run.request)
        ]
        assert not stuck
