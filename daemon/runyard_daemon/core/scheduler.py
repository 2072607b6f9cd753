"""Which waiting run goes to which node, now.

Rules, in this order:

1. Runs of one compute target are looked at by priority, higher first, then first come first served.
2. A run goes to the node that it leaves least room on (GPUs, then CPUs, memory, slots; then the
   node's id), so that large gaps stay for large runs and GPUs for those who ask for them.
3. A run that finds no room claims every node that could hold it if it were empty: no run behind it
   is placed there before it. So those nodes drain until it fits, and nothing starves that some node
   could hold. Nodes that could never hold it stay open to the runs behind.
4. A run that no usable node could ever hold claims nothing and delays nobody; it is explained.

Claims are worked out anew at each decision and are not stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from runyard_daemon.core.room import Room, could_fit, empty_room, fits
from runyard_daemon.core.types import ActiveAttempt, Grant, Node, NodeId, QueuedRun, Resources
from runyard_daemon.core.waiting import Line, OrderKey, order_key


@dataclass(frozen=True, slots=True)
class Survey:
    """What would be decided for one compute target now."""

    grants: tuple[Grant, ...]
    """In the order of the queue."""
    rooms: Mapping[NodeId, Room]
    """What is free on each node of the target after the grants."""
    claims: Mapping[NodeId, QueuedRun]
    """The waiting run that a node is kept for."""
    unclaimed: tuple[Node, ...] = ()
    """Usable nodes that are kept for nobody."""

    def admits(self, request: Resources) -> bool:
        """Says whether a run with `request` that is looked at next starts at once."""
        return any(fits(request, node, self.rooms[node.id]) for node in self.unclaimed)


class Board:
    """All that the scheduler knows, kept up to date one change at a time. Does no I/O.

    Every change costs O(log n) in the number of waiting runs plus O(m) in the nodes of the target,
    so submitting into a long queue costs what submitting into an empty one does. `ready` then looks
    only at targets where a change may have made room for somebody.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Node] = {}
        self._members: dict[str, dict[NodeId, Node]] = {}
        self._rooms: dict[NodeId, Room] = {}
        self._node_of: dict[str, NodeId] = {}
        self._held: dict[NodeId, dict[str, Resources]] = {}
        self._lines: dict[str, Line] = {}
        self._line_of: dict[str, Line] = {}
        self._claims: dict[str, Mapping[NodeId, QueuedRun]] = {}
        self._changed: set[str] = set()

    def add_run(self, run: QueuedRun) -> None:
        """Queues a run; one that waits already takes its new place."""
        self.remove_run(run.run_id)
        line = self._lines.setdefault(run.compute, Line())
        line.add(run)
        self._line_of[run.run_id] = line
        if run.compute not in self._changed and self._may_start(run):
            self._changed.add(run.compute)

    def remove_run(self, run_id: str) -> None:
        """Takes a run out of the queue (canceled, given up); nothing happens if it is not in it."""
        line = self._line_of.pop(run_id, None)
        if line is not None:
            self._changed.add(line.remove(run_id).compute)

    def set_node(self, node: Node) -> None:
        """Adds a node or takes over what changed about it. Its attempts keep what they hold."""
        known = self._nodes.get(node.id)
        if known is not None and known.compute != node.compute:
            self._members[known.compute].pop(node.id)
            self._changed.add(known.compute)
        self._nodes[node.id] = node
        self._members.setdefault(node.compute, {})[node.id] = node
        room = empty_room(node)
        for held in self.held_on(node.id).values():
            room = room.without(held)
        self._rooms[node.id] = room
        self._changed.add(node.compute)

    def remove_node(self, node_id: NodeId) -> None:
        """Forgets a node; attempts that it executes go on being known."""
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._members[node.compute].pop(node_id)
            self._rooms.pop(node_id)
            self._changed.add(node.compute)

    def hold(self, attempt: ActiveAttempt) -> None:
        """Books an attempt that was granted earlier (read from the records, adopted)."""
        run_id = attempt.ref.run_id
        self.remove_run(run_id)
        self.release(run_id)
        self._book(run_id, attempt.node, attempt.held)

    def release(self, run_id: str) -> None:
        """Frees what the run's attempt holds; nothing happens if it holds nothing."""
        node_id = self._node_of.pop(run_id, None)
        if node_id is None:
            return
        held = self._held[node_id].pop(run_id)
        if node_id in self._nodes:
            self._rooms[node_id] = self._rooms[node_id].plus(held)
            self._changed.add(self._nodes[node_id].compute)

    def ready(self) -> tuple[Grant, ...]:
        """Decides what starts now and books it.

        Each grant leaves the queue and holds its resources until `release`. A caller that cannot
        make a grant durable calls `undo`.
        """
        grants: list[Grant] = []
        for compute in sorted(self._changed):
            survey = self.survey(compute)
            self._claims[compute] = survey.claims
            for grant in survey.grants:
                self._line_of.pop(grant.run.run_id).remove(grant.run.run_id)
                self._book(grant.run.run_id, grant.node, grant.held)
            grants.extend(survey.grants)
        self._changed.clear()
        return tuple(grants)

    def undo(self, grant: Grant) -> None:
        """Takes a grant back: its run waits again, in its old place."""
        self.release(grant.run.run_id)
        self.add_run(grant.run)

    def survey(self, compute: str) -> Survey:
        """Works out what starts now on one target, without booking it."""
        return self._survey(compute, None, frozenset())

    def turn_of(
        self, run_id: str, *, priority: int | None = None, without: frozenset[str] = frozenset()
    ) -> Survey:
        """Works out what a waiting run meets when its turn comes now: runs behind it play no part.

        With `priority` as if it had that one; with `without` as if those runs, waiting or active,
        were gone. Raises KeyError where the run does not wait.
        """
        run = self._line_of[run_id].get(run_id)
        placed = run if priority is None else replace(run, priority=priority)
        return self._survey(run.compute, order_key(placed), without | {run_id})

    def _survey(self, compute: str, until: OrderKey | None, without: frozenset[str]) -> Survey:
        """Surveys the runs before `until`; None: all."""
        members = self._members.get(compute, {})
        rooms = {node_id: self._rooms[node_id] for node_id in members}
        for run_id in without:
            node_id = self._node_of.get(run_id)
            if node_id in rooms:
                rooms[node_id] = rooms[node_id].plus(self._held[node_id][run_id])
        unclaimed = {node_id: node for node_id, node in members.items() if node.is_usable}
        claims: dict[NodeId, QueuedRun] = {}
        grants: list[Grant] = []
        turns = _Turns(self._lines.get(compute, Line()))
        while unclaimed and (run := turns.next()) is not None:
            if until is not None and order_key(run) >= until:
                break
            if run.run_id in without:
                turns.admit_following()
                continue
            possible = [node for node in unclaimed.values() if could_fit(run.request, node)]
            node = _best(run.request, possible, rooms)
            if node is not None:
                rooms[node.id] = rooms[node.id].without(run.request)
                grants.append(Grant(run, node.id, run.request))
                turns.admit_following()
            else:
                # Those behind it that ask for the same find no node either: none is admitted.
                for claimed in possible:
                    claims[claimed.id] = run
                    del unclaimed[claimed.id]
        return Survey(tuple(grants), rooms, claims, tuple(unclaimed.values()))

    def waiting_run(self, run_id: str) -> QueuedRun | None:
        """Gives a run that waits, else None."""
        line = self._line_of.get(run_id)
        return line.get(run_id) if line else None

    def ahead_of(self, run_id: str, first: int) -> tuple[int, tuple[str, ...]]:
        """Counts the runs ahead of a waiting one and names the `first` of them.

        O(n) in the queue: for people who ask. Raises KeyError where the run does not wait.
        """
        return self._line_of[run_id].ahead_of(run_id, first)

    def priorities_ahead(self, run_id: str) -> tuple[int, ...]:
        """Gives the priorities of the runs ahead of a waiting one, each once, the lowest first.

        O(n) in the queue. Raises KeyError where the run does not wait.
        """
        return self._line_of[run_id].priorities_ahead(run_id)

    def waiting_count(self, compute: str) -> int:
        """Counts the runs that wait for a target."""
        return len(self._lines.get(compute, ()))

    def nodes_of(self, compute: str) -> tuple[Node, ...]:
        """Gives the nodes of a target, by id."""
        return tuple(node for _, node in sorted(self._members.get(compute, {}).items()))

    def computes(self) -> tuple[str, ...]:
        """Gives the targets that have, or had, a node; sorted."""
        return tuple(sorted(self._members))

    def room_of(self, node_id: NodeId) -> Room:
        """Gives what is free on a node. Raises KeyError for an unknown one."""
        return self._rooms[node_id]

    def held_on(self, node_id: NodeId) -> Mapping[str, Resources]:
        """Gives the runs that hold a slot of a node, and what else each of them holds there."""
        return MappingProxyType(self._held.get(node_id, {}))

    def _book(self, run_id: str, node_id: NodeId, held: Resources) -> None:
        self._node_of[run_id] = node_id
        self._held.setdefault(node_id, {})[run_id] = held
        if node_id in self._rooms:
            self._rooms[node_id] = self._rooms[node_id].without(held)

    def _may_start(self, run: QueuedRun) -> bool:
        """Says whether a run that was just queued changes anything, by the claims of last time.

        Runs that were queued since can only have added claims, so "no" is certain.
        """
        claims = self._claims.get(run.compute, {})
        return any(
            (node_id not in claims or order_key(run) < order_key(claims[node_id]))
            and fits(run.request, node, self._rooms[node_id])
            for node_id, node in self._members.get(run.compute, {}).items()
        )


def place(
    queue: Iterable[QueuedRun], nodes: Iterable[Node], active: Iterable[ActiveAttempt]
) -> tuple[Grant, ...]:
    """Decides what starts now, from nothing but its arguments, whose order does not matter."""
    board = Board()
    for node in nodes:
        board.set_node(node)
    for attempt in active:
        board.hold(attempt)
    for run in queue:
        board.add_run(run)
    return board.ready()


class _Turns:
    """Gives runs in order; of those with the same request only the first, until told otherwise."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._firsts = line.heads()
        self._admitted: list[tuple[OrderKey, QueuedRun, Iterator[QueuedRun]]] = []
        self._behind: Iterator[QueuedRun] = iter(())
        self._seen: set[Resources] = set()

    def next(self) -> QueuedRun | None:
        """Takes the next of those admitted; None: all were looked at."""
        while self._firsts and not (self._admitted and self._admitted[0][0] < self._firsts[0]):
            run = self._line.first_at(heapq.heappop(self._firsts))
            if run is not None and run.request not in self._seen:
                self._seen.add(run.request)
                self._behind = self._line.behind(run)
                return run
        if not self._admitted:
            return None
        _, run, self._behind = heapq.heappop(self._admitted)
        return run

    def admit_following(self) -> None:
        """Admits the run that asks for the same and comes after the one that was just taken."""
        run = next(self._behind, None)
        if run is not None:
            heapq.heappush(self._admitted, (order_key(run), run, self._behind))


def _best(request: Resources, nodes: Iterable[Node], rooms: Mapping[NodeId, Room]) -> Node | None:
    """The node with room for `request` that keeps the least, or None."""
    fitting = [node for node in nodes if fits(request, node, rooms[node.id])]
    return min(fitting, key=lambda node: _left(request, node, rooms[node.id]), default=None)


def _left(request: Resources, node: Node, room: Room) -> tuple[int, int, int, int, str]:
    left = room.resources - request
    return (left.gpus, left.cpu_millis, left.memory_bytes, room.slots, node.id)
