"""Shows runs as NOT_RESPONDING whose node was not heard of for longer than a lease.

Nothing is ended or started again because of it: on local and attached machines a run goes on and
its node comes back.
"""

from __future__ import annotations

import asyncio

from runyard_contract.errors import RunyardError
from runyard_daemon.control.advance import DAEMON, advance
from runyard_daemon.control.hello import WORKSPACE
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.core.lease import LeaseDecision, LeaseTimes, OnDisconnect, WatchedLease
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.core.types import AttemptRef, BootTime, NodeId
from runyard_daemon.store import Connection, attempts, computes, runs

RETRY_S = 1.0


async def watch_leases(live: Live, out_of_touch_s: float) -> None:
    """Never returns."""
    told: dict[NodeId, BootTime] = {}
    while True:
        live.wake_leases.clear()
        due_in_s = await _round(live, out_of_touch_s, told)
        try:
            async with asyncio.timeout(due_in_s):
                await live.wake_leases.wait()
        except TimeoutError:
            continue


async def _round(live: Live, out_of_touch_s: float, told: dict[NodeId, BootTime]) -> float | None:
    """Does what is due; gives the seconds until something else is, None for nothing."""
    times = LeaseTimes(ttl_s=out_of_touch_s, margin_s=0.0)
    waits: list[float] = []
    for node, since in list(live.unseen.items()):
        if told.get(node) == since:
            continue
        lease = WatchedLease.granted(_ANY, OnDisconnect.CONTINUE, times, since)
        now = live.boot_now()
        if lease.decide(now) is LeaseDecision.NOTHING:
            waits.append(lease.expires - now + 0.001)
            continue
        try:
            await _mark(live, node)
            told[node] = since
        except RunyardError as error:
            live.journal.warning("lease_not_noted", node=node, why=error.message)
            waits.append(RETRY_S)
    return min(waits, default=None)


_ANY = AttemptRef("", 0, 0)
"""All attempts of a node share its silence."""


async def _mark(live: Live, node: NodeId) -> None:
    held = live.held_by(node)
    now_us = live.now_us()

    def write(conn: Connection) -> list[str]:
        compute, _, node_id = node.partition("/")
        computes.touch_node(conn, WORKSPACE, compute, node_id, now_us)
        return [attempt.ref.run_id for attempt in held if _mark_one(conn, attempt, now_us)]

    for run_id in await live.store.write(write):
        live.changed(run_id)
    live.journal.warning("node_out_of_touch", node=node, attempts=len(held))


def _mark_one(conn: Connection, held: HeldAttempt, now_us: int) -> bool:
    run = runs.get(conn, held.ref.run_id)
    record = attempts.current(conn, held.ref.run_id)
    if run is None or record is None or record.ref != held.ref:
        return False
    happened = [(Event.OUT_OF_TOUCH, f"{run.node} is out of touch; the run may well go on")]
    return advance(conn, run, happened, DAEMON, now_us)
