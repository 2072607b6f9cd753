"""Builds the live state from the store: what a starting daemon knows.

Every attempt that was active stays so and waits for its agent's Hello; nothing is ended or started
again because the daemon was away.
"""

from __future__ import annotations

from runyard_contract.states import RunState
from runyard_daemon.control.hello import LOCAL, WORKSPACE
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.core.lifecycle import WAITING
from runyard_daemon.core.types import ActiveAttempt, AttemptRef, Node, NodeId, QueuedRun
from runyard_daemon.store import Connection, computes, listing, runs, workspaces
from runyard_daemon.store.computes import ComputeRecord, NodeRecord
from runyard_daemon.store.listing import UnfinishedRun


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
    ) -> tuple[int, list[NodeRecord], list[UnfinishedRun], dict[str, str]]:
        unfinished = listing.unfinished(conn)
        experiments = {
            run.run_id: known.experiment
            for run in unfinished
            if (run.is_ahead or run.state not in WAITING)
            and (known := runs.get(conn, run.run_id)) is not None
        }
        return runs.next_sequence(conn), computes.nodes(conn), unfinished, experiments

    sequence, nodes, unfinished, experiments = await live.store.read(read)
    live.next_sequence = sequence
    for record in nodes:
        _add_node(live, record)
    for run in unfinished:
        if run.is_ahead or run.state not in WAITING:
            _hold(live, run, experiments[run.run_id])
        else:
            live.waiting.add(run.run_id)
            live.board.add_run(_queued(run))


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


def _queued(run: UnfinishedRun) -> QueuedRun:
    return QueuedRun(run.run_id, run.compute, run.priority, run.sequence, run.resources)


def _hold(live: Live, run: UnfinishedRun, experiment: str) -> None:
    ref = AttemptRef(run.run_id, run.attempt, run.epoch)
    node = NodeId(run.node_id)
    live.hold(HeldAttempt(ref, node, run.workspace, experiment))
    if run.is_ahead:
        live.board.hold_ahead(_queued(run), node)
    elif run.state is not RunState.FINALIZING:
        live.board.hold(ActiveAttempt(ref, node, run.held))
