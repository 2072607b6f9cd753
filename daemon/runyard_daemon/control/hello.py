"""An agent's Hello: everything between it and the records settled in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from runyard_contract.states import RunState
from runyard_daemon.control import catalog
from runyard_daemon.control.advance import DAEMON, advance
from runyard_daemon.control.applied import NO_END, apply, core_record
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.finish import Ending, ReadSpec, conclude
from runyard_daemon.control.grants import Grants
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.control.orders import Cancel, Forget, Session
from runyard_daemon.control.reported import AttemptReport, EnvironmentBuild, Hello
from runyard_daemon.core import attempts as core_attempts
from runyard_daemon.core.attempts import Action, AttemptPhase, Decision, event_of, reconcile
from runyard_daemon.core.types import AttemptRef, Node, NodeId
from runyard_daemon.store import Connection, attempts, computes, meta, runs
from runyard_daemon.store.computes import NodeRecord
from runyard_daemon.store.details import AttemptEndRecord

WORKSPACE = "default"
"""The workspace of agents: they name a target only."""
LOCAL = "local"
"""The target on the daemon's own machine."""


@dataclass(slots=True)
class _Settled:
    """What the transaction of a Hello decided, to be carried out after its commit."""

    decisions: list[Decision] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    """Runs that became final."""


class Greeter:
    """Takes Hellos and ends of sessions."""

    def __init__(
        self,
        live: Live,
        grants: Grants,
        logs: AttemptLogs,
        read_spec: ReadSpec,
        workdir_keep_s: float,
    ) -> None:
        self._live = live
        self._grants = grants
        self._logs = logs
        self._read_spec = read_spec
        self._workdir_keep_s = workdir_keep_s

    def node_of(self, hello: Hello) -> NodeId:
        """The node that says hello. Raises ComputeNotFound."""
        compute = self._live.store.peek(
            lambda conn: catalog.compute(conn, WORKSPACE, hello.compute)
        )
        return NodeId(f"{compute.name}/{hello.node_id}")

    async def greet(self, session: Session, hello: Hello) -> list[AttemptReport]:
        """Settles a Hello and makes its session the node's live one.

        Orders that follow from it are queued on the session. Gives the reports of attempts that
        say ENDED: they are to be taken as reports once the session is welcomed, because finishing a
        run may have to wait for its log.
        """
        return await self._live.background.whole(self._greet(session, hello), "hello")

    async def _greet(self, session: Session, hello: Hello) -> list[AttemptReport]:
        live = self._live
        node = session.node
        mine = live.held_by(node)
        if _is_local(node):
            mine = [held for held in live.attempts.values() if _is_local(held.node)]
        settled = await live.store.write(lambda conn: self._settle(conn, node, hello, mine))

        if session.is_open:
            older = live.sessions.get(node)
            live.sessions[node] = session
            if older is not None:
                older.supersede()
            live.in_touch(_board_node(node, hello))
        said = {report.ref: report for report in hello.attempts}
        live.found[node] = tuple(
            said[decision.ref].target
            for decision in settled.decisions
            if decision.action is Action.FOUND
        )
        for run_id in settled.over:
            held = live.attempts.get(run_id)
            live.let_go(run_id)
            if held is not None:
                self._logs.seal(held.key)
        for decision in settled.decisions:
            await self._carry_out(session, decision, said.get(decision.ref))
        for run_id in settled.changed:
            live.changed(run_id)
        live.wake_dispatch.set()
        live.note_activity()
        return [
            said[decision.ref]
            for decision in settled.decisions
            if decision.action is Action.ADOPT and said[decision.ref].phase is AttemptPhase.ENDED
        ]

    def _settle(
        self, conn: Connection, node: NodeId, hello: Hello, mine: list[HeldAttempt]
    ) -> _Settled:
        """The transaction: judges every attempt that either side knows."""
        now_us = self._live.now_us()
        known = {record.node_id: record for record in computes.nodes(conn, WORKSPACE)}
        before = known.get(hello.node_id)
        # All attempts that are not over were granted, or were settled by a Hello, in the boot that
        # the node's record has.
        boot_id = before.boot_id if before else hello.boot_id
        refs = {held.ref for held in mine} | {report.ref for report in hello.attempts}
        incarnation = meta.get(conn).incarnation
        records = [_core_record(conn, ref, boot_id, incarnation) for ref in refs]
        settled = _Settled()
        said = {report.ref: report for report in hello.attempts}
        for decision in reconcile(
            node,
            hello.boot_id,
            [report.summary for report in hello.attempts],
            [record for record in records if record is not None],
            is_only_node=_is_local(node),
        ):
            settled.decisions.append(decision)
            self._write(conn, node, decision, said.get(decision.ref), settled, now_us)
        computes.put_node(conn, _node_record(node, hello, now_us))
        return settled

    def _write(
        self,
        conn: Connection,
        node: NodeId,
        decision: Decision,
        report: AttemptReport | None,
        settled: _Settled,
        now_us: int,
    ) -> None:
        """Writes the effect of one decision."""
        run_id = decision.ref.run_id
        if decision.action is Action.ADOPT and report is not None:
            phase = min(report.phase, AttemptPhase.EXITED)
            apply(conn, node, replace(report, phase=phase), now_us)
            self._back_in_touch(conn, decision.ref, now_us)
            settled.changed.add(run_id)
        elif decision.action is Action.RESEND:
            self._back_in_touch(conn, decision.ref, now_us)
            settled.changed.add(run_id)
        elif decision.action is Action.WAIT:
            attempts.remove(conn, decision.ref)
        elif decision.action in {Action.END, Action.SEAL}:
            end = self._end(conn, decision)
            ending = Ending(decision.ref, end, is_agents_word=False)
            if conclude(conn, ending, self._read_spec, now_us) is not None:
                settled.over.add(run_id)
                settled.changed.add(run_id)

    def _end(self, conn: Connection, decision: Decision) -> AttemptEndRecord:
        """How an attempt ended that its agent no longer has, or that the boot ended."""
        if decision.reason is not None:
            return AttemptEndRecord(reason=decision.reason.name)
        record = attempts.get(conn, decision.ref.run_id, decision.ref.attempt)
        return record.end if record and record.end else NO_END

    def _back_in_touch(self, conn: Connection, ref: AttemptRef, now_us: int) -> None:
        """Takes a run out of NOT_RESPONDING to where its attempt is."""
        run = runs.get(conn, ref.run_id)
        record = attempts.get(conn, ref.run_id, ref.attempt)
        if run is None or record is None or run.state is not RunState.NOT_RESPONDING:
            return
        event = event_of(AttemptPhase[record.phase])
        advance(conn, run, [(event, "its node is back in touch")], DAEMON, now_us)

    async def _carry_out(
        self, session: Session, decision: Decision, report: AttemptReport | None
    ) -> None:
        """Sends what a decision means for the agent, and keeps memory in step."""
        live = self._live
        held = live.attempts.get(decision.ref.run_id)
        if held is not None and held.ref == decision.ref:
            if decision.action is Action.WAIT:
                live.wait_again(held.ref.run_id)
                live.board.come_back(held.ref.run_id)
                return
            live.board.begin(decision.ref.run_id)
            if report is not None and report.phase >= AttemptPhase.EXITED:
                live.board.release(decision.ref.run_id)
            if decision.action is Action.RESEND:
                await self._grants.again(held)
            elif decision.is_cancel_wanted:
                session.send(Cancel(held.target, self.grace_s(held)))
        target = report.target if report is not None else None
        if target is None:
            return
        if decision.action is Action.FOUND:
            live.journal.warning("attempt_found", node=session.node, run=target.name)
        elif decision.action in {Action.STOP, Action.END}:
            session.send(Cancel(target, 0.0, is_superseded=True))
        elif decision.action is Action.FORGET:
            session.send(Forget(target, self._workdir_keep_s))

    def grace_s(self, held: HeldAttempt) -> float:
        """The time between SIGTERM and SIGKILL that a run asked for."""
        spec = self._live.store.peek(lambda conn: runs.get_spec(conn, held.ref.run_id))
        return self._read_spec(spec).grace_s

    def built(self, session: Session, builds: Mapping[str, Sequence[EnvironmentBuild]]) -> None:
        """Takes what is built on a node, all of it, by the hash of its lock."""
        if self._live.sessions.get(session.node) is session:
            self._live.builds[session.node] = builds

    def part(self, session: Session) -> bool:
        """Takes the end of a session. Runs of the node go on; it may come back any time.

        False: a newer session took over before.
        """
        live = self._live
        if live.sessions.get(session.node) is not session:
            return False
        del live.sessions[session.node]
        live.builds.pop(session.node, None)
        live.lost_touch(session.node)
        return True


def _is_local(node: NodeId) -> bool:
    """Whether a node is of the target that has one node only: the agent beside the daemon."""
    return node.startswith(f"{LOCAL}/")


def _core_record(
    conn: Connection, ref: AttemptRef, boot_id: str, incarnation: int
) -> core_attempts.AttemptRecord | None:
    """What is on record of an attempt, as the core judges it; None: nothing."""
    record = attempts.get(conn, ref.run_id, ref.attempt)
    run = runs.get(conn, ref.run_id)
    newest = attempts.current(conn, ref.run_id)
    if record is None or run is None or newest is None or record.ref != ref:
        return None
    is_current = newest.ref == ref
    return core_record(record, run, is_current=is_current, boot_id=boot_id, incarnation=incarnation)


def _board_node(node: NodeId, hello: Hello) -> Node:
    compute = node.split("/", 1)[0]
    return Node(
        id=node,
        name=f"{compute}/{hello.hostname}",
        compute=compute,
        slots=hello.slots,
        capacity=hello.capacity,
        max_ahead=hello.max_ahead,
    )


def _node_record(node: NodeId, hello: Hello, now_us: int) -> NodeRecord:
    return NodeRecord(
        workspace=WORKSPACE,
        compute=node.split("/", 1)[0],
        node_id=hello.node_id,
        hostname=hello.hostname,
        platform=hello.platform,
        agent_version=hello.agent_version,
        boot_id=hello.boot_id,
        machine_id=hello.machine_id,
        job_account=hello.job_account,
        slots=hello.slots,
        capacity=hello.capacity,
        last_seen_us=now_us,
        gpu_names=hello.gpu_names,
    )
