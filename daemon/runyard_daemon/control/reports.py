"""Agents' reports: judged, applied in one transaction with the grants that they make possible."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from runyard_contract.content.store import ContentStore
from runyard_contract.record import record
from runyard_daemon.content import Content
from runyard_daemon.control.applied import NO_END, Applied, TakenBack, apply, take_back
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.finish import (
    TAIL_BYTES,
    Ending,
    Evidence,
    ReadSpec,
    find_kept_out,
    wants_evidence,
)
from runyard_daemon.control.grants import Booked, Granted, Grants
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.control.orders import Cancel, Forget
from runyard_daemon.control.reported import AttemptReport
from runyard_daemon.control.tags import JobTags
from runyard_daemon.core.attempts import AttemptPhase, Return, Standing
from runyard_daemon.core.types import ActiveAttempt, AttemptRef, NodeId, QueuedRun
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.store import Connection, runs
from runyard_daemon.store.details import AttemptEndRecord


@record
class _Prepared:
    """A report with all that is needed to apply it."""

    report: AttemptReport
    ending: Ending | None = None
    """Its run becomes final with it."""


@dataclass(slots=True)
class _Booking:
    """What a batch changed in memory before its commit, to be taken back if that fails."""

    released: list[ActiveAttempt] = field(default_factory=list)
    came_back: list[tuple[QueuedRun, NodeId]] = field(default_factory=list)
    decided: tuple[Booked, ...] = ()


@record
class _Written:
    """What a batch's transaction did."""

    applied: list[Applied]
    returned: list[TakenBack]
    granted: list[Granted | None]


class Reports:
    """Takes reports from sessions."""

    def __init__(
        self,
        live: Live,
        grants: Grants,
        logs: AttemptLogs,
        content: Content,
        tags: JobTags,
        read_spec: ReadSpec,
        workdir_keep_s: float,
    ) -> None:
        self._live = live
        self._grants = grants
        self._logs = logs
        self._content = content
        self._tags = tags
        self._read_spec = read_spec
        self._workdir_keep_s = workdir_keep_s

    async def take(
        self,
        node: NodeId,
        reports: Sequence[AttemptReport],
        returned: Sequence[AttemptRef] = (),
    ) -> None:
        """Applies reports and leases that were given back; returns after their effect is durable.

        All that is complete is applied in one transaction. A report that ends a run whose log is
        still on its way follows by itself when that is here. A repeated one changes nothing.
        """
        await self._live.background.whole(self._take(node, reports, returned), "reports")

    async def _take(
        self, node: NodeId, reports: Sequence[AttemptReport], returned: Sequence[AttemptRef]
    ) -> None:
        lengths = await self._append(node, reports)
        prepared: list[_Prepared] = []
        late: list[AttemptReport] = []
        for report in reports:
            held = self._ending_attempt(node, report)
            if held is None:
                prepared.append(_Prepared(report))
            elif _is_complete(held.key, report, lengths):
                prepared.append(_Prepared(report, await self._ending(held, report)))
            else:
                late.append(report)
        if not late:
            await self._settle(node, prepared, returned)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settle(node, prepared, returned))
            for report in late:
                group.create_task(self._take_late(node, report))

    async def _take_late(self, node: NodeId, report: AttemptReport) -> None:
        """Applies a report that ends a run, when its whole log is durable."""
        held = self._ending_attempt(node, report)
        if held is None:
            await self._settle(node, [_Prepared(report)], ())
            return
        await self._logs.complete(held.key, report.lengths)
        await self._settle(node, [_Prepared(report, await self._ending(held, report))], ())

    async def _append(
        self, node: NodeId, reports: Iterable[AttemptReport]
    ) -> dict[tuple[AttemptKey, LogFile], int]:
        """Appends the bytes that came with reports; gives the durable lengths of files that must
        be complete."""
        pieces: list[tuple[AttemptKey, LogFile, int, bytes]] = []
        lengths: dict[tuple[AttemptKey, LogFile], int] = {}
        for report in reports:
            held = self._live.attempts.get(report.ref.run_id)
            if held is None or held.ref != report.ref or held.node != node:
                continue
            sent = {piece.file for piece in report.pieces}
            for piece in report.pieces:
                pieces.append((held.key, piece.file, piece.offset_bytes, piece.data))
            if report.phase is AttemptPhase.ENDED:
                for name, length in report.lengths.items():
                    file = LogFile(name)
                    known = self._logs.appender.durable_bytes(held.key, file)
                    if file not in sent and known >= length:
                        lengths[held.key, file] = known
                    elif file not in sent:
                        pieces.append((held.key, file, 0, b""))
        if pieces:
            lengths.update(await self._logs.appender.append_all(pieces))
        return lengths

    def _ending_attempt(self, node: NodeId, report: AttemptReport) -> HeldAttempt | None:
        """The attempt that a report ends for good; None: it does not, or is not its node's."""
        held = self._live.attempts.get(report.ref.run_id)
        is_last = report.phase is AttemptPhase.ENDED
        if not is_last or held is None or held.ref != report.ref or held.node != node:
            return None
        return held

    async def _ending(self, held: HeldAttempt, report: AttemptReport) -> Ending:
        """How an attempt ended whose files are all here, with a look at why it failed."""
        if report.lengths.get(LogFile.TAGS.value, 0):
            await self._tags.drain(held)
        end = report.end or NO_END
        evidence = await self._evidence(held, end) if wants_evidence(end) else Evidence()
        return Ending(report.ref, end, report.workdir, report.warnings, evidence)

    async def _evidence(self, held: HeldAttempt, end: AttemptEndRecord) -> Evidence:
        """The end of stderr (of stdout where both are one) and what it says of missing files."""
        run_id = held.ref.run_id
        run = self._live.store.peek(lambda conn: runs.get(conn, run_id))
        spec = self._read_spec(self._live.store.peek(lambda conn: runs.get_spec(conn, run_id)))
        key, snapshot = held.key, run.snapshot if run else ""
        file = LogFile.STDOUT if spec.merge_stderr else LogFile.STDERR

        def look(content: ContentStore) -> Evidence:
            tail = self._logs.tail(key, file, TAIL_BYTES)
            kept_out = find_kept_out(tail, end.working_directory, snapshot, content)
            return Evidence(tail, kept_out)

        return await self._content.run(look)

    async def _settle(
        self, node: NodeId, prepared: Sequence[_Prepared], returned: Sequence[AttemptRef]
    ) -> None:
        """One transaction: reports, leases given back, and the grants that they make possible."""
        booking = self._book(node, prepared, returned)

        def write(conn: Connection) -> _Written:
            now_us = self._live.now_us()
            return _Written(
                [
                    apply(conn, node, item.report, now_us, item.ending, self._read_spec)
                    for item in prepared
                ],
                [take_back(conn, node, ref, self._read_spec, now_us) for ref in returned],
                self._grants.write(conn, booking.decided),
            )

        try:
            written = await self._live.store.write(write)
        except BaseException:
            self._unbook(booking)
            raise
        for item, applied in zip(prepared, written.applied, strict=True):
            self._applied(node, item, applied)
        requeued = {run.run_id for run, _ in booking.came_back}
        for ref, taken in zip(returned, written.returned, strict=True):
            self._returned(ref, taken, is_queued=ref.run_id in requeued)
        await self._grants.settle(booking.decided, written.granted)

    def _book(
        self, node: NodeId, prepared: Sequence[_Prepared], returned: Sequence[AttemptRef]
    ) -> _Booking:
        """Frees what ended and what came back, and decides what may start in its place."""
        booking = _Booking()
        board = self._live.board
        for item in prepared:
            released = self._release(node, item.report)
            if released is not None:
                booking.released.append(released)
        for ref in returned:
            held = self._live.attempts.get(ref.run_id)
            run = board.sent_ahead(ref.run_id)
            if run is not None and held is not None and held.ref == ref and held.node == node:
                board.come_back(ref.run_id)
                booking.came_back.append((run, node))
        booking.decided = self._grants.decide()
        return booking

    def _unbook(self, booking: _Booking) -> None:
        """Takes back what `_book` did."""
        self._grants.undo(booking.decided)
        for released in booking.released:
            self._live.board.hold(released)
        for run, node in booking.came_back:
            self._live.board.hold_ahead(run, node)

    def _release(self, node: NodeId, report: AttemptReport) -> ActiveAttempt | None:
        """Notes that an attempt began, and frees its slot where its processes are gone; gives what
        it held."""
        live = self._live
        run_id = report.ref.run_id
        held = live.attempts.get(run_id)
        if held is None or held.ref != report.ref or held.node != node:
            return None
        live.board.begin(run_id)
        if report.phase < AttemptPhase.EXITED:
            return None
        amount = live.board.held_on(node).get(run_id)
        if amount is None:
            return None
        live.board.release(run_id)
        lasted_us = report.end.duration_us if report.end is not None else None
        live.board.note_end(node, lasted_us / 1e6 if lasted_us is not None else None)
        return ActiveAttempt(held.ref, node, amount)

    def _applied(self, node: NodeId, item: _Prepared, applied: Applied) -> None:
        """After the commit of a report: wakes those concerned, keeps memory in step, answers."""
        live, run_id = self._live, item.report.ref.run_id
        held = live.attempts.get(run_id)
        if item.ending is not None and held is not None and applied.standing is Standing.COUNTS:
            live.let_go(run_id)
            self._logs.seal(held.key)
        if applied.has_changed:
            live.changed(run_id)
        self._answer(node, item.report, applied)

    def _returned(self, ref: AttemptRef, taken: TakenBack, *, is_queued: bool) -> None:
        """After the commit of a lease that was given back: memory follows the record.

        Args:
            is_queued: the board has its run again already, and may have granted it anew.
        """
        live = self._live
        held = live.attempts.get(ref.run_id)
        if held is None or held.ref != ref:
            return
        if taken.decision is Return.WAIT and taken.run is not None:
            live.wait_again(ref.run_id)
            live.changed(ref.run_id)
            if not is_queued:
                live.board.release(ref.run_id)
                live.board.add_run(taken.run)
                live.wake_dispatch.set()
        elif taken.decision is Return.END:
            live.let_go(ref.run_id)
            self._logs.seal(held.key)
            live.changed(ref.run_id)

    def _answer(self, node: NodeId, report: AttemptReport, applied: Applied) -> None:
        """Tells the agent what its report means for the attempt's folder."""
        ref, target = report.ref, report.target
        if applied.standing in {Standing.UNKNOWN, Standing.SUPERSEDED}:
            self._live.journal.warning(
                f"attempt_{applied.standing.value}",
                node=node,
                run=ref.run_id,
                attempt=ref.attempt,
                epoch=ref.epoch,
            )
        if applied.standing is Standing.SUPERSEDED:
            self._live.order(node, Cancel(target, 0.0, is_superseded=True))
        is_last = report.phase is AttemptPhase.ENDED and applied.standing is not Standing.UNKNOWN
        if is_last and applied.standing is not Standing.SUPERSEDED:
            self._live.order(node, Forget(target, self._workdir_keep_s))


def _is_complete(
    key: AttemptKey, report: AttemptReport, lengths: dict[tuple[AttemptKey, LogFile], int]
) -> bool:
    """Whether all files of an attempt have durably reached their final lengths."""
    return all(
        lengths.get((key, LogFile(name)), 0) >= length for name, length in report.lengths.items()
    )
