"""Which waiting run goes to which node, now.

Rules, in this order:

1. Runs of one compute target are looked at by priority, higher first, then first come first served.
2. A run goes to the node that it leaves least room on (GPUs, then CPUs, memory, slots; then the
   node's id), so that large gaps stay for large runs and GPUs for those who ask for them.
3. A run that finds no room claims every node that could hold it if it were empty: no run behind it
   is placed there before it. So those nodes drain until it fits, and nothing starves that some node
   could hold. Nodes that could never hold it stay open to the runs behind.
4. A run that no usable node could ever hold claims nothing and delays nobody; it is explained.
5. A run that finds no room may be sent ahead to a node that it fits if that is empty, and where
   every run that holds a slot asks for the same (see `ahead` for where and how many). It still
   waits: it claims nodes as in 3, and only runs that ask for the same may follow it ahead, as long
   as no run that could use the node waits between them. A node that runs are ahead at takes no
   other run before them. Once sent it waits at that node alone: what else it claimed is open again,
   and the rules are gone through once more.

Claims are worked out anew at each decision and are not stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from runyard_daemon.core.ahead import Ahead
from runyard_daemon.core.fleet import Fleet
from runyard_daemon.core.room import Room, empty_room, fits
from runyard_daemon.core.survey import Offer, Survey, Target, survey
from runyard_daemon.core.types import ActiveAttempt, Grant, Node, NodeId, QueuedRun, Resources
from runyard_daemon.core.waiting import Line, OrderKey, order_key


class Board:
    """All that the scheduler knows, kept up to date one change at a time. Does no I/O.

    Every change costs O(log n) in the number of waiting runs, so submitting into a long queue costs
    what submitting into an empty one does. `ready` then looks only at targets where a change may
    have made room for somebody.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Node] = {}
        self._members: dict[str, dict[NodeId, Node]] = {}
        self._fleets: dict[str, Fleet] = {}
        """The usable nodes of each target."""
        self._rooms: dict[NodeId, Room] = {}
        self._node_of: dict[str, NodeId] = {}
        self._held: dict[NodeId, dict[str, Resources]] = {}
        self._lines: dict[str, Line] = {}
        self._line_of: dict[str, Line] = {}
        self._claims: dict[str, Mapping[NodeId, QueuedRun]] = {}
        self._changed: set[str] = set()
        self._ahead = Ahead()

    def add_run(self, run: QueuedRun) -> None:
        """Queues a run; one that waits already takes its new place."""
        self.remove_run(run.run_id)
        line = self._lines.get(run.compute)
        if line is None:
            line = self._lines[run.compute] = Line()
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
        self._leave_target(node.id)
        self._nodes[node.id] = node
        self._members.setdefault(node.compute, {})[node.id] = node
        room = empty_room(node)
        for held in self.held_on(node.id).values():
            room = room.without(held)
        self._rooms[node.id] = room
        if node.is_usable:
            self._fleets.setdefault(node.compute, Fleet()).put(node, room)
        self._changed.add(node.compute)
        self._promote(node)

    def remove_node(self, node_id: NodeId) -> None:
        """Forgets a node; attempts that it executes go on being known."""
        self._leave_target(node_id)
        if self._nodes.pop(node_id, None) is not None:
            self._rooms.pop(node_id)

    def hold(self, attempt: ActiveAttempt) -> None:
        """Books an attempt that was granted earlier (read from the records, adopted)."""
        run_id = attempt.ref.run_id
        self.remove_run(run_id)
        self.release(run_id)
        self._book(run_id, attempt.node, attempt.held)

    def hold_ahead(self, run: QueuedRun, node_id: NodeId) -> None:
        """Notes a run that was sent ahead earlier: its node may begin it any moment."""
        self.remove_run(run.run_id)
        self.release(run.run_id)
        self._ahead.add(run, node_id)
        node = self._nodes.get(node_id)
        if node is not None:
            self._changed.add(node.compute)
            self._promote(node)

    def begin(self, run_id: str) -> None:
        """Books a run that was sent ahead: its agent says that it began."""
        node_id = self._ahead.node_of(run_id)
        run = self._ahead.begun(run_id)
        if run is not None and node_id is not None:
            self._book(run_id, node_id, run.request)

    def come_back(self, run_id: str) -> None:
        """Lets a run wait again, in its old place, that was sent ahead and never began."""
        node_id = self._ahead.node_of(run_id) or self._node_of.get(run_id)
        run = self._ahead.sent(run_id)
        if run is None or node_id is None:
            return
        self.release(run_id)
        self._ahead.note_end(node_id, None)
        self.add_run(run)

    def note_end(self, node_id: NodeId, lasted_s: float | None) -> None:
        """Learns how long a run took on a node: where they are short, runs are sent ahead.

        None: it is not known.
        """
        self._ahead.note_end(node_id, lasted_s)
        if node_id in self._nodes:
            self._changed.add(self._nodes[node_id].compute)

    def release(self, run_id: str) -> None:
        """Frees what the run's attempt holds; nothing happens if it holds nothing."""
        ahead_at = self._ahead.node_of(run_id)
        self._ahead.forget(run_id)
        node_id = self._node_of.pop(run_id, ahead_at)
        if node_id is None:
            return
        held = self._held.get(node_id, {}).pop(run_id, None)
        if held is not None and node_id in self._rooms:
            self._set_room(node_id, self._rooms[node_id].plus(held))
        node = self._nodes.get(node_id)
        if node is not None:
            self._changed.add(node.compute)
            self._promote(node)

    def ready(self) -> tuple[Grant, ...]:
        """Decides what starts now and books it.

        Each grant leaves the queue and holds its resources until `release`; one that goes ahead
        holds none before there is room. A caller that cannot make a grant durable calls `undo`.
        """
        grants: list[Grant] = []
        for compute in sorted(self._changed):
            while self._grant(compute, grants):
                pass
        self._changed.clear()
        return tuple(grants)

    def _grant(self, compute: str, grants: list[Grant]) -> bool:
        """Books what starts now on one target, and adds it to `grants`.

        Says whether more may start, because runs that went ahead claim nothing else any more.
        """
        found = self.survey(compute)
        went = {grant.run.run_id for grant in found.grants if grant.is_ahead}
        self._claims[compute] = {
            node_id: run for node_id, run in found.claims.items() if run.run_id not in went
        }
        for grant in found.grants:
            run_id = grant.run.run_id
            self._line_of.pop(run_id).remove(run_id)
            if grant.is_ahead:
                self._ahead.add(grant.run, grant.node)
            else:
                self._book(run_id, grant.node, grant.held)
        grants.extend(found.grants)
        return bool(went) and len(self._members[compute]) > 1

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
        placed = run if priority is None else run._replace(priority=priority)
        return self._survey(run.compute, order_key(placed), without | {run_id})

    def _survey(self, compute: str, until: OrderKey | None, without: frozenset[str]) -> Survey:
        """Surveys the runs before `until`; None: all."""
        members = self._members.get(compute, {})
        fleet = self._fleets.get(compute, Fleet()).copy()
        rooms = {node_id: self._rooms[node_id] for node_id in members}
        for run_id in without:
            node_id = self._node_of.get(run_id)
            if node_id in rooms:
                rooms[node_id] = rooms[node_id].plus(self._held[node_id][run_id])
                fleet.set_room(node_id, rooms[node_id])
        firsts = {node_id: self._ahead.first(node_id) for node_id in self._ahead.nodes()}
        return survey(
            Target(
                self._lines.get(compute, Line()),
                fleet,
                rooms,
                {
                    node_id: run
                    for node_id, run in firsts.items()
                    if run is not None and node_id in members
                },
                tuple(self._offers(members)),
                until,
                without,
            )
        )

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

    def sent_ahead(self, run_id: str) -> QueuedRun | None:
        """Gives a run that was sent ahead and is not known to have begun, else None."""
        return self._ahead.sent(run_id)

    def ahead_at(self, run_id: str) -> NodeId | None:
        """The node that a run was sent to ahead of its room; None: it was not, or has room now."""
        return self._ahead.node_of(run_id)

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
            self._set_room(node_id, self._rooms[node_id].without(held))

    def _set_room(self, node_id: NodeId, room: Room) -> None:
        self._rooms[node_id] = room
        fleet = self._fleets.get(self._nodes[node_id].compute)
        if fleet is not None:
            fleet.set_room(node_id, room)

    def _leave_target(self, node_id: NodeId) -> None:
        known = self._nodes.get(node_id)
        if known is None:
            return
        self._members[known.compute].pop(node_id)
        if known.compute in self._fleets:
            self._fleets[known.compute].remove(node_id)
        self._changed.add(known.compute)

    def _promote(self, node: Node) -> None:
        """Books the runs that are ahead at a node and have room now, as its agent begins them."""
        while (run := self._ahead.first(node.id)) is not None:
            if not fits(run.request, node, self._rooms[node.id]):
                return
            self._ahead.promote(run.run_id)
            self._book(run.run_id, node.id, run.request)

    def _offers(self, members: Mapping[NodeId, Node]) -> Iterator[Offer]:
        """The nodes that take runs ahead now."""
        for node_id in self._ahead.learned():
            node = members.get(node_id)
            if node is None or not node.is_usable:
                continue
            left = self._ahead.allowance(node)
            asked = set(self.held_on(node_id).values())
            first = self._ahead.first(node_id)
            if first is not None:
                asked.add(first.request)
            if left and len(asked) <= 1:
                yield Offer(node, next(iter(asked), None), left, self._ahead.count(node_id))

    def _may_start(self, run: QueuedRun) -> bool:
        """Says whether a run that was just queued changes anything, by the claims of last time.

        Runs that were queued since can only have added claims, so "no" is certain.
        """
        fleet = self._fleets.get(run.compute)
        if fleet is None:
            return False
        claims = self._claims.get(run.compute, {})
        return any(
            node_id not in claims or order_key(run) < order_key(claims[node_id])
            for node_id in fleet.fitting(run.request)
        ) or any(offer.request == run.request for offer in self._offers(self._members[run.compute]))


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
