"""Builds the live state from the store: what a starting daemon knows.

Every attempt that was active stays so and waits for its agent's Hello; nothing is ended or started
again because the daemon was away.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from runyard_contract.states import RunState
from runyard_daemon.control.hello import LOCAL, WORKSPACE
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.core.types import ActiveAttempt, Node, NodeId, QueuedRun
from runyard_daemon.store import Connection, computes, runs, unfinished, workspaces
from runyard_daemon.store.computes import ComputeRecord, NodeRecord
from runyard_daemon.store.unfinished import GrantedRun


async def prepare_store(live: Live) -> None:
    """Makes what every daemon has: the default workspace and the target on its own machine."""
    now_us = live.now_us()

    def write(conn: Connection) -> None:
        workspaces.ensure(conn, WORKSPACE, now_us)
        if computes.get(conn, WORKSPACE, LOCAL) is None:
            computes.put(
                conn, ComputeRecord(WORKSPACE, LOCAL, "LOCAL", "SUCCEEDED", now_us, now_us)
            )

    await live.store.write(write)


async def load(live: Live) -> None:
    """Fills the live state."""

    def read(
        conn: Connection,
    ) -> tuple[int, list[NodeRecord], list[GrantedRun], list[QueuedRun]]:
        return (
            runs.next_sequence(conn),
            computes.nodes(conn),
            unfinished.granted(conn),
            list(unfinished.waiting(conn)),
        )

    with _no_garbage():
        live.next_sequence, nodes, granted, waiting = await live.store.read(read)
        for record in nodes:
            _add_node(live, record)
        for run in granted:
            _hold(live, run)
        for queued in waiting:
            live.waiting.add(queued.run_id)
            live.board.add_run(queued)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Holds up the collector, which otherwise looks at the growing queue again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _add_node(live: Live, record: NodeRecord) -> None:
    node_id = NodeId(f"{record.compute}/{record.node_id}")
    live.nodes[node_id] = Node(
        id=node_id,
        name=f"{record.compute}/{record.hostname}",
        compute=record.compute,
        slots=record.slots,
        capacity=record.capacity,
    )
    live.lost_touch(node_id)


def _hold(live: Live, run: GrantedRun) -> None:
    live.hold(HeldAttempt(run.ref, run.node, run.workspace, run.experiment))
    if run.is_ahead:
        live.board.hold_ahead(run.queued, run.node)
    elif run.state is not RunState.FINALIZING:
        live.board.hold(ActiveAttempt(run.ref, run.node, run.held))
