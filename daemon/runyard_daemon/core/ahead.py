"""Runs that were sent to a node before it has room, so that it starts them without a round trip.

Only where short runs ended in a row: there the way to the daemon and back would cost more than the
run. As many go ahead as short runs ended there one after the other, up to what the agent takes; one
longer run, or one that comes back because it could not begin, and it begins to count again.
"""

from __future__ import annotations

from runyard_daemon.core.types import Node, NodeId, QueuedRun

SHORT_S = 1.0
"""A run of at most that length is short. An agent gives back what it can't begin for that long."""


class Ahead:
    """Which runs are ahead, where, in which order; and how many more a node may get.

    A run is ahead until its node has room (`promote`), then expected to begin until its agent says
    that it did (`begun`). In between it holds its resources and can still come back.
    """

    def __init__(self) -> None:
        self._runs: dict[NodeId, dict[str, QueuedRun]] = {}
        self._expected: dict[str, QueuedRun] = {}
        self._node_of: dict[str, NodeId] = {}
        self._short_in_a_row: dict[NodeId, int] = {}

    def add(self, run: QueuedRun, node_id: NodeId) -> None:
        """Notes that a run was sent to a node, behind those that are ahead there."""
        self._runs.setdefault(node_id, {})[run.run_id] = run
        self._node_of[run.run_id] = node_id

    def node_of(self, run_id: str) -> NodeId | None:
        """The node that a run is ahead at; None: it is not, or its room is free already."""
        return self._node_of.get(run_id)

    def first(self, node_id: NodeId) -> QueuedRun | None:
        """The run that begins next on a node; None: none is ahead there."""
        return next(iter(self._runs.get(node_id, {}).values()), None)

    def count(self, node_id: NodeId) -> int:
        """How many are ahead at a node."""
        return len(self._runs.get(node_id, ()))

    def nodes(self) -> list[NodeId]:
        """The nodes that runs are ahead at."""
        return list(self._runs)

    def promote(self, run_id: str) -> None:
        """Notes that there is room for a run that is ahead: its agent begins it by itself."""
        self._expected[run_id] = self._take(run_id)

    def begun(self, run_id: str) -> QueuedRun | None:
        """Notes that a run began. Gives it where nothing was known of its room; else None."""
        self._expected.pop(run_id, None)
        return self._take(run_id) if run_id in self._node_of else None

    def sent(self, run_id: str) -> QueuedRun | None:
        """A run that was sent ahead and has not begun; None: it was not, or it began."""
        node_id = self._node_of.get(run_id)
        return self._expected.get(run_id) if node_id is None else self._runs[node_id][run_id]

    def forget(self, run_id: str) -> None:
        """Takes a run out that never began; nothing happens if it is not in."""
        if self._expected.pop(run_id, None) is None and run_id in self._node_of:
            self._take(run_id)

    def note_end(self, node_id: NodeId, lasted_s: float | None) -> None:
        """Learns from a run that ended, or, with None, from one that came back."""
        if lasted_s is not None and lasted_s < SHORT_S:
            self._short_in_a_row[node_id] = self._short_in_a_row.get(node_id, 0) + 1
        else:
            self._short_in_a_row.pop(node_id, None)

    def allowance(self, node: Node) -> int:
        """How many more may go ahead to a node."""
        learned = self._short_in_a_row.get(node.id, 0)
        return max(0, min(node.max_ahead, learned) - self.count(node.id))

    def learned(self) -> list[NodeId]:
        """The nodes where short runs ended last."""
        return list(self._short_in_a_row)

    def _take(self, run_id: str) -> QueuedRun:
        node_id = self._node_of.pop(run_id)
        runs = self._runs[node_id]
        run = runs.pop(run_id)
        if not runs:
            del self._runs[node_id]
        return run
