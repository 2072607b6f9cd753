"""One look at a compute target: who would start where now. The scheduler's rules 1 to 5."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import field

from runyard_contract.record import record
from runyard_daemon.core.fleet import Fleet
from runyard_daemon.core.room import Room, could_fit, fits
from runyard_daemon.core.types import Grant, Node, NodeId, QueuedRun, Resources
from runyard_daemon.core.waiting import Line, OrderKey, order_key


@record
class Offer:
    """A node that takes runs ahead of its room."""

    node: Node
    request: Resources | None
    """What all that hold a slot there ask for, and all that are ahead; None: there are none yet."""
    left: int
    """How many more it takes."""
    count: int
    """How many are ahead there already."""


@record
class Target:
    """What a survey looks at."""

    line: Line
    fleet: Fleet
    """A copy: the survey takes from it what it grants."""
    rooms: Mapping[NodeId, Room]
    """What is free on every node of the target, usable or not."""
    kept: Mapping[NodeId, QueuedRun] = field(default_factory=dict)
    """The first run that is ahead at a node."""
    offers: tuple[Offer, ...] = ()
    until: OrderKey | None = None
    """Only runs before that are looked at; None: all."""
    without: frozenset[str] = frozenset()
    """Runs that are left out."""


@record
class Survey:
    """What would be decided for one compute target now."""

    grants: tuple[Grant, ...]
    """In the order of the queue."""
    rooms: Mapping[NodeId, Room]
    """What is free on each node of the target after the grants."""
    claims: Mapping[NodeId, QueuedRun]
    """The waiting run that a node is kept for, or that is ahead there."""
    unclaimed: tuple[Node, ...] = ()
    """Usable nodes that are kept for nobody."""

    def admits(self, request: Resources) -> bool:
        """Says whether a run with `request` that is looked at next starts at once."""
        return any(fits(request, node, self.rooms[node.id]) for node in self.unclaimed)


def survey(target: Target) -> Survey:
    """Works out what starts now, and what goes ahead."""
    fleet = target.fleet
    rooms = dict(target.rooms)
    claims = dict(target.kept)
    ahead = _Openings(target)
    for node_id in target.kept:
        fleet.remove(node_id)
    grants: list[Grant] = []
    turns = _Turns(target.line)
    while (len(fleet) or ahead.is_open) and (run := turns.next()) is not None:
        if target.until is not None and order_key(run) >= target.until:
            break
        if run.run_id in target.without:
            turns.admit_following()
            continue
        best = next(fleet.fitting(run.request), None)
        if best is not None:
            fleet.take(best, run.request)
            rooms[best] = rooms[best].without(run.request)
            grants.append(Grant(run, best, run.request))
            ahead.note_grant(best, run.request)
            turns.admit_following()
            continue
        # Those behind it that ask for the same find no node either: none is admitted, unless it
        # went ahead.
        possible = fleet.able(run.request)
        for node in possible:
            claims[node.id] = run
            fleet.remove(node.id)
        ahead_at = ahead.place(run, possible)
        if ahead_at is not None:
            grants.append(Grant(run, ahead_at, run.request, is_ahead=True))
            turns.admit_following()
    return Survey(tuple(grants), rooms, claims, fleet.nodes())


class _Openings:
    """Nodes that are claimed by runs that went ahead only: open to those that ask for the same."""

    def __init__(self, target: Target) -> None:
        self._offers = {offer.node.id: offer for offer in target.offers}
        self._asked = {node_id: offer.request for node_id, offer in self._offers.items()}
        self._sent = dict.fromkeys(self._offers, 0)
        self._open = {
            node_id: run.request for node_id, run in target.kept.items() if node_id in target.fleet
        }

    @property
    def is_open(self) -> bool:
        """Whether any run can still go ahead to a node that is claimed."""
        return bool(self._open)

    def note_grant(self, node_id: NodeId, request: Resources) -> None:
        """Notes that a run got a slot of a node: only those that ask for the same may follow."""
        if node_id in self._offers and self._asked[node_id] is None:
            self._asked[node_id] = request
        elif self._asked.get(node_id, request) != request:
            del self._offers[node_id], self._asked[node_id]

    def place(self, run: QueuedRun, claimed: list[Node]) -> NodeId | None:
        """Sends a run ahead that found no room, or says that it can't be.

        `claimed` are the nodes that it has just claimed. From then on only runs that ask for the
        same may go ahead to them; where it stays behind, none.
        """
        for node in claimed:
            if node.id in self._offers:
                self._open[node.id] = run.request
        takers = [
            (offer.count + self._sent[node_id], node_id)
            for node_id, offer in self._offers.items()
            if self._open.get(node_id) == run.request and self._takes(offer, run)
        ]
        chosen = min(takers, default=None)
        stays = chosen is None
        for node_id, request in list(self._open.items()):
            if stays or request != run.request:
                offer = self._offers.get(node_id)
                if offer is None or could_fit(run.request, offer.node):
                    del self._open[node_id]
        if chosen is None:
            return None
        self._sent[chosen[1]] += 1
        return chosen[1]

    def _takes(self, offer: Offer, run: QueuedRun) -> bool:
        node_id = offer.node.id
        return self._asked[node_id] == run.request and self._sent[node_id] < offer.left


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
