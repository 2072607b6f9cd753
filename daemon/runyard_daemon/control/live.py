"""What the daemon holds in memory: the scheduler's board, open sessions, attempts, wake-ups.

All of it can be built again from the store (`startup`); it belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runyard_daemon.control.background import Background
from runyard_daemon.control.changes import Changes
from runyard_daemon.control.disk import DiskGuard
from runyard_daemon.control.orders import Order, RunRef, Session
from runyard_daemon.control.reported import EnvironmentBuild
from runyard_daemon.core.histogram import Histogram
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.types import AttemptRef, BootTime, Node, NodeId, WallTime
from runyard_daemon.journal import Journal
from runyard_daemon.logs.layout import AttemptKey
from runyard_daemon.store.database import Store

NowUs = Callable[[], int]
"""Microseconds since the Unix epoch, by the wall clock."""


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """The current attempt of a run that has not ended, granted to a node."""

    ref: AttemptRef
    node: NodeId
    workspace: str
    experiment: str

    @property
    def key(self) -> AttemptKey:
        """Where its log files lie."""
        return AttemptKey(self.experiment, self.ref.run_id, self.ref.attempt)

    @property
    def target(self) -> RunRef:
        """The attempt with the run's full name."""
        return RunRef(run_name(self.workspace, self.experiment, self.ref.run_id), self.ref)


def run_name(workspace: str, experiment: str, run_id: str) -> str:
    """The full name of a run."""
    return f"workspaces/{workspace}/experiments/{experiment}/runs/{run_id}"


@dataclass(slots=True)
class Live:
    """Everything the parts of `control` share."""

    store: Store
    journal: Journal
    now_us: NowUs
    boot_now: Callable[[], BootTime]
    """CLOCK_BOOTTIME of this machine."""
    background: Background
    disk: DiskGuard
    board: Board = field(default_factory=Board)
    changes: Changes = field(default_factory=Changes)
    sessions: dict[NodeId, Session] = field(default_factory=dict)
    attempts: dict[str, HeldAttempt] = field(default_factory=dict)
    """By run id."""
    waiting: set[str] = field(default_factory=set)
    """Ids of the runs that wait for a node."""
    found: dict[NodeId, tuple[RunRef, ...]] = field(default_factory=dict)
    """What agents hold and the records don't know, as after a restore, by their last Hello."""
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    """All that are known, connected or not."""
    builds: dict[NodeId, Mapping[str, Sequence[EnvironmentBuild]]] = field(default_factory=dict)
    """Environments that are built on nodes with a session, by the hash of their lock."""
    unseen: dict[NodeId, BootTime] = field(default_factory=dict)
    """Since when nodes without a session are out of touch, by this machine's boot clock."""
    next_sequence: int = 1
    wake_dispatch: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a run may have become able to start."""
    wake_leases: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a node lost touch."""
    removal: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while anything that the records named is removed, and while a backup is made."""
    decisions: Histogram = field(default_factory=Histogram)
    """How long the scheduler took for each decision."""
    last_activity: float = 0.0
    """When something last happened that puts off the daemon's idle end, by the boot clock."""

    def note_activity(self) -> None:
        """Puts off the daemon's idle end."""
        self.last_activity = self.boot_now()

    def take_sequence(self) -> int:
        """The sequence of a new run; never given twice."""
        sequence = self.next_sequence
        self.next_sequence += 1
        return sequence

    def hold(self, attempt: HeldAttempt) -> None:
        """Notes that a run's current attempt is this."""
        self.waiting.discard(attempt.ref.run_id)
        self.attempts[attempt.ref.run_id] = attempt

    def wait_again(self, run_id: str) -> None:
        """Notes that a run whose attempt never began waits again; its place is the board's."""
        self.attempts.pop(run_id, None)
        self.waiting.add(run_id)

    def let_go(self, run_id: str) -> None:
        """Notes that a run ended: neither waiting nor held; its slot is free."""
        self.waiting.discard(run_id)
        self.attempts.pop(run_id, None)
        self.board.remove_run(run_id)
        self.board.release(run_id)
        self.note_activity()

    def builds_of(self, lock_hash: str) -> list[tuple[str, EnvironmentBuild]]:
        """Where the environments of a lock are built: names of nodes, in order, with the builds."""
        found = [
            (self.nodes[node].name, build)
            for node, builds in self.builds.items()
            for build in builds.get(lock_hash, ())
        ]
        return sorted(found, key=lambda one: one[0])

    def held_by(self, node: NodeId) -> list[HeldAttempt]:
        """The attempts that are not over on a node."""
        return [attempt for attempt in self.attempts.values() if attempt.node == node]

    def in_touch(self, node: Node) -> None:
        """Notes that a node has a session, and what it offers."""
        self.unseen.pop(node.id, None)
        self.nodes[node.id] = node
        self.board.set_node(node)

    def lost_touch(self, node_id: NodeId) -> None:
        """Notes that a node has no session any more, or, after a start, none yet."""
        since = WallTime(self.now_us() / 1e6)
        node = replace(
            self.nodes[node_id],
            is_connected=False,
            reason="its agent is not connected",
            since=since,
        )
        self.nodes[node_id] = node
        self.unseen[node_id] = self.boot_now()
        self.board.set_node(node)
        self.wake_leases.set()

    async def all_parted(self) -> None:
        """Waits until no node has a session."""
        while self.sessions:
            self.wake_leases.clear()
            await self.wake_leases.wait()

    def forget_node(self, node_id: NodeId) -> None:
        """Takes a node that left out of all that is known, and ends its session."""
        session = self.sessions.pop(node_id, None)
        if session is not None:
            session.turn_out()
        self.board.remove_node(node_id)
        for known in (self.nodes, self.builds, self.unseen, self.found):
            known.pop(node_id, None)

    def order(self, node: NodeId, order: Order) -> bool:
        """Sends an order where the node has a session; what it misses comes with its next Hello."""
        session = self.sessions.get(node)
        if session is None:
            return False
        session.send(order)
        return True

    def changed(self, run_id: str) -> None:
        """Tells everybody concerned that a run changed, durably."""
        self.changes.notify(run_id)
