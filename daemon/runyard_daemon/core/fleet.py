"""The usable nodes of one compute target, kept by what is free on them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from runyard_daemon.core.room import Room, could_fit, fits
from runyard_daemon.core.types import Node, NodeId, Resources

_Key = tuple[int, int, int, int, NodeId]
_Shape = tuple[bool, Resources]
"""What decides whether a node could ever hold a request: has it slots, and what has it."""


class Fleet:
    """Finds the node for a request without looking at all of them.

    What a run would leave on a node is the node's room less the request, so the order of nodes by
    what is left is their order by room, whatever the request: one sorted list serves all. Nodes
    that differ in nothing that never changes are grouped, so that "could it ever fit" is asked once
    for each group.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Node] = {}
        self._rooms: dict[NodeId, Room] = {}
        self._keys: list[_Key] = []
        """Of the nodes with a free slot, least room first."""
        self._shapes: dict[_Shape, dict[NodeId, Node]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._nodes

    def nodes(self) -> tuple[Node, ...]:
        """Gives the nodes."""
        return tuple(self._nodes.values())

    def copy(self) -> Fleet:
        """Gives one that changes without changing this one."""
        twin = Fleet()
        twin._nodes = self._nodes.copy()
        twin._rooms = self._rooms.copy()
        twin._keys = self._keys.copy()
        twin._shapes = {shape: nodes.copy() for shape, nodes in self._shapes.items()}
        return twin

    def put(self, node: Node, room: Room) -> None:
        """Adds a node, or takes over what changed about it."""
        self.remove(node.id)
        self._nodes[node.id] = node
        self._shapes.setdefault(_shape(node), {})[node.id] = node
        self.set_room(node.id, room)

    def remove(self, node_id: NodeId) -> None:
        """Takes a node out; nothing happens if it is not in."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._drop_key(node_id)
        del self._rooms[node_id]
        shape = _shape(node)
        group = self._shapes[shape]
        del group[node_id]
        if not group:
            del self._shapes[shape]

    def set_room(self, node_id: NodeId, room: Room) -> None:
        """Takes over what is free on a node; nothing happens if it is not in."""
        if node_id not in self._nodes:
            return
        self._drop_key(node_id)
        self._rooms[node_id] = room
        if room.slots >= 1:
            insort(self._keys, _key(node_id, room))

    def take(self, node_id: NodeId, request: Resources) -> None:
        """Books a request on a node."""
        self.set_room(node_id, self._rooms[node_id].without(request))

    def fitting(self, request: Resources) -> Iterator[NodeId]:
        """Gives the nodes that have room now, the one that keeps the least first.

        The fleet must not change meanwhile.
        """
        start = bisect_left(self._keys, (request.gpus, request.cpu_millis))
        for index in range(start, len(self._keys)):
            node_id = self._keys[index][4]
            if fits(request, self._nodes[node_id], self._rooms[node_id]):
                yield node_id

    def able(self, request: Resources) -> list[Node]:
        """Gives the nodes that could hold a request once nothing else runs there."""
        return [
            node
            for group in self._shapes.values()
            if could_fit(request, next(iter(group.values())))
            for node in group.values()
        ]

    def _drop_key(self, node_id: NodeId) -> None:
        room = self._rooms.get(node_id)
        if room is not None and room.slots >= 1:
            del self._keys[bisect_left(self._keys, _key(node_id, room))]


def _key(node_id: NodeId, room: Room) -> _Key:
    """What nodes are sorted by: GPUs first, so that they stay for those who ask for them."""
    free = room.resources
    return (
        max(0, free.gpus),
        max(0, free.cpu_millis),
        max(0, free.memory_bytes),
        room.slots,
        node_id,
    )


def _shape(node: Node) -> _Shape:
    return (node.slots >= 1, node.capacity)
