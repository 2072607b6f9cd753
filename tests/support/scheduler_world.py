"""The scheduler's rules read literally, slow and plain, for its board to be held against."""

from __future__ import annotations

from runyard_daemon.core.types import (
    ActiveAttempt,
    AttemptRef,
    Grant,
    Node,
    NodeId,
    QueuedRun,
    Resources,
)


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

    def follow_rules(self) -> list[list[Grant]]:
        """Starts what starts now, and says what; once more as long as runs went ahead."""
        rounds = [self.decide()]
        while rounds[-1]:
            for grant in rounds[-1]:
                self.start(grant)
            rounds.append(self.decide())
        return rounds

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
