"""Grants: decided by the scheduler, durable before the lease goes to the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from runyard_contract.errors import RunyardError
from runyard_contract.record import record, replace
from runyard_daemon.content import Content
from runyard_daemon.control.advance import DAEMON, USER, advance
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.control.orders import Lease
from runyard_daemon.control.snapshots import inline_manifests
from runyard_daemon.core.lifecycle import Event, applies, next_state
from runyard_daemon.core.types import AttemptRef, Grant
from runyard_daemon.store import Connection, attempts, environments, meta, runs
from runyard_daemon.store.attempts import AttemptRecord
from runyard_daemon.store.environments import LockRecord
from runyard_daemon.store.runs import RunRecord, SpecRecord
from runyard_daemon.store.transitions import TransitionRecord

_CACHED_SNAPSHOTS = 16
"""Snapshots whose manifests are kept in memory, up to 256 KiB each."""

NewRun = tuple[RunRecord, SpecRecord]
"""A run that is about to be added, and what it was asked to be."""
Manifests = tuple[tuple[str, bytes], ...]
EnvironmentHash = Callable[[bytes], str]
"""From the serialized environment to the hash that its locks are kept under; "" for no lock."""


@record
class Booked:
    """A decision that is booked on the board and not durable yet."""

    grant: Grant
    node_name: str
    """What people call the node."""


@record
class Granted:
    """A grant that is durable."""

    held: HeldAttempt
    snapshot: str
    spec: SpecRecord
    locks: tuple[LockRecord, ...]
    is_ahead: bool = False
    """Its run still waits: it begins when the node has room."""


class Grants:
    """Takes decisions from the board, writes them, sends the leases."""

    def __init__(self, live: Live, content: Content, environment_hash: EnvironmentHash) -> None:
        self._live = live
        self._content = content
        self._environment_hash = environment_hash
        self._manifests: dict[str, Manifests] = {}

    def decide(self) -> tuple[Booked, ...]:
        """What starts now, booked on the board. Pass it to `write`, then `settle` or `undo`."""
        live = self._live
        began_s = time.perf_counter()
        ready = live.board.ready()
        live.decisions.observe(time.perf_counter() - began_s)
        return tuple(Booked(grant, live.nodes[grant.node].name) for grant in ready)

    def write(self, conn: Connection, decided: Sequence[Booked]) -> list[Granted | None]:
        """Makes grants durable, in the transaction of whatever made them possible.

        None for a run that no longer waits (cancelled meanwhile). Runs in the writer's thread.
        """
        now_us = self._live.now_us()
        epochs = iter(meta.next_epochs(conn, len(decided)) if decided else ())
        return [self._write_one(conn, booked, next(epochs), now_us) for booked in decided]

    def _write_one(
        self, conn: Connection, booked: Booked, epoch: int, now_us: int
    ) -> Granted | None:
        run = runs.get(conn, booked.grant.run.run_id)
        if run is None or not applies(run.state, Event.GRANTED):
            return None
        attempt = run.attempt + 1
        if not booked.grant.is_ahead:
            advance(
                conn,
                run,
                [(Event.GRANTED, _cause(booked))],
                DAEMON,
                now_us,
                attempt=attempt,
                node=booked.node_name,
            )
        held = _hold(conn, booked, run, AttemptRef(run.run_id, attempt, epoch), now_us)
        spec = runs.get_spec(conn, run.run_id)
        return self._leased(conn, held, run.snapshot, spec, is_ahead=booked.grant.is_ahead)

    def insert(
        self, conn: Connection, new: Sequence[NewRun], decided: Sequence[Booked]
    ) -> tuple[list[RunRecord], list[Granted | None]]:
        """Adds new runs, granted where they are among the decisions, and makes all durable.

        Gives the runs as stored, and what `write` gives.
        """
        now_us = self._live.now_us()
        mine = {booked.grant.run.run_id: booked for booked in decided}
        epochs = dict(zip(mine, meta.next_epochs(conn, len(mine)) if mine else (), strict=True))
        stored: list[RunRecord] = []
        granted: dict[str, Granted | None] = {}
        for run, spec in new:
            booked = mine.get(run.run_id)
            stored.append(_insert(conn, run, spec, booked, now_us))
            if booked is not None:
                ref = AttemptRef(run.run_id, 1, epochs[run.run_id])
                held = _hold(conn, booked, stored[-1], ref, now_us)
                granted[run.run_id] = self._leased(
                    conn, held, run.snapshot, spec, is_ahead=booked.grant.is_ahead
                )
        return stored, [
            granted[run_id]
            if run_id in granted
            else self._write_one(conn, booked, epochs[run_id], now_us)
            for run_id, booked in mine.items()
        ]

    def _leased(
        self,
        conn: Connection,
        held: HeldAttempt,
        snapshot: str,
        spec: SpecRecord,
        *,
        is_ahead: bool = False,
    ) -> Granted:
        """What the lease of an attempt says."""
        lock_hash = self._environment_hash(spec.environment) if spec.environment else ""
        locks = tuple(environments.locks(conn, lock_hash)) if lock_hash else ()
        return Granted(held, snapshot, spec, locks, is_ahead)

    async def settle(self, decided: Sequence[Booked], written: Sequence[Granted | None]) -> None:
        """After the commit: books what was granted and sends the leases."""
        for booked, granted in zip(decided, written, strict=True):
            if granted is None:
                self._live.board.release(booked.grant.run.run_id)
                self._live.wake_dispatch.set()
                continue
            self._live.hold(granted.held)
            if not granted.is_ahead:
                self._live.changed(granted.held.ref.run_id)
        for granted in written:
            if granted is not None:
                await self.send(granted)

    def undo(self, decided: Sequence[Booked]) -> None:
        """After a failed commit: the runs wait again, in their old places."""
        for booked in decided:
            self._live.board.undo(booked.grant)
        if decided:
            self._live.wake_dispatch.set()

    async def send(self, granted: Granted) -> None:
        """Sends a lease where the node is connected; else it comes with the node's Hello."""
        held = granted.held
        if held.node not in self._live.sessions:
            return
        manifests = await self.manifests(granted.snapshot)
        if self._live.attempts.get(held.ref.run_id) != held:
            return
        self._live.order(
            held.node,
            Lease(
                held.target,
                granted.spec.spec,
                granted.spec.environment,
                manifests,
                granted.locks,
                granted.is_ahead,
            ),
        )

    async def grant_waiting(self) -> None:
        """Grants what can start now. Raises what the store raises; then nothing is booked."""
        decided = self.decide()
        if decided:
            await self._live.background.whole(self._grant(decided), "dispatch")

    async def _grant(self, decided: Sequence[Booked]) -> None:
        try:
            written = await self._live.store.write(lambda conn: self.write(conn, decided))
        except BaseException:
            self.undo(decided)
            raise
        await self.settle(decided, written)

    async def again(self, held: HeldAttempt) -> None:
        """Sends the lease of an attempt whose agent never heard of it."""

        def read(conn: Connection) -> Granted | None:
            run = runs.get(conn, held.ref.run_id)
            if run is None:
                return None
            return self._leased(conn, held, run.snapshot, runs.get_spec(conn, run.run_id))

        granted = await self._live.store.read(read)
        if granted is not None:
            await self.send(granted)

    async def manifests(self, snapshot: str) -> Manifests:
        """The manifests of a snapshot that travel in its leases, from memory where they are.

        A snapshot that can't be read gives none: the agent then asks for what it needs and reports
        what is wrong with it.
        """
        if not snapshot:
            return ()
        known = self._manifests.get(snapshot)
        if known is None:
            try:
                known = await self._content.run(
                    lambda store: inline_manifests(snapshot, store.read)
                )
            except RunyardError as error:
                self._live.journal.error("snapshot_unreadable", digest=snapshot, why=error.message)
                return ()
            while len(self._manifests) >= _CACHED_SNAPSHOTS:
                self._manifests.pop(next(iter(self._manifests)))
            self._manifests[snapshot] = known
        return known


def _insert(
    conn: Connection, run: RunRecord, spec: SpecRecord, booked: Booked | None, now_us: int
) -> RunRecord:
    """Adds a new run: waiting, or, where a node has room for it, started."""
    history = [TransitionRecord(run.state, run.create_time_us, "submitted", USER)]
    if booked is not None and not booked.grant.is_ahead:
        state = next_state(run.state, Event.GRANTED)
        run = replace(run, state=state, attempt=1, node=booked.node_name)
        history.append(TransitionRecord(state, now_us, _cause(booked), DAEMON))
    return runs.insert(conn, run, spec, history)


def _cause(booked: Booked) -> str:
    """Why a run starts, for people."""
    return f"leased to {booked.node_name}"


def _hold(
    conn: Connection, booked: Booked, run: RunRecord, ref: AttemptRef, now_us: int
) -> HeldAttempt:
    """Writes the attempt of a grant under its new epoch. Its run must be there already."""
    record = AttemptRecord(
        run_id=ref.run_id,
        attempt=ref.attempt,
        epoch=ref.epoch,
        node_id=booked.grant.node,
        grant_time_us=now_us,
        held=booked.grant.held,
        phase="AHEAD" if booked.grant.is_ahead else "GRANTED",
    )
    attempts.insert(conn, record)
    return HeldAttempt(ref, booked.grant.node, run.workspace, run.experiment)
