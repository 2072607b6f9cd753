"""An agent's open session: applies its messages, acknowledges what is durable, sends orders."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from runyard_contract.errors import RunyardError, SessionSuperseded, SpecInvalid
from runyard_daemon.control.access import unauthenticated
from runyard_daemon.control.collect import Collected
from runyard_daemon.control.hello import Greeter
from runyard_daemon.control.orders import Forget, Goodbye, Lease, Order
from runyard_daemon.control.questions import Questions
from runyard_daemon.control.reported import AttemptReport
from runyard_daemon.control.reports import Reports
from runyard_daemon.core.types import NodeId
from runyard_daemon.journal import Journal
from runyard_daemon.rpc.convert.agents import (
    gather,
    to_builds,
    to_message,
    to_pruned,
    to_report,
    to_target,
)
from runyard_daemon.rpc.convert.specs import resolve_environment
from runyard_daemon.rpc.idle import Duplex, incoming
from runyardpb.agent.v1 import agent_pb2 as pb

FAULTS_MAX = 3
"""Messages that make no sense before the session is ended."""
REPORTS_AT_ONCE = 64
ACKNOWLEDGE_S = 0.15
"""How long an acknowledgement may wait for an order that takes it along."""
MESSAGE_BYTES = 1 << 20
"""A message with several orders takes no more when it has that many."""

Context = Duplex[pb.SessionRequest, pb.SessionResponse]


class SessionOver(Exception):
    """Ends the tasks of a session."""


@dataclass(slots=True)
class _Acknowledged:
    """The highest number before which everything is durable."""

    upto: int = 0
    ahead: set[int] = field(default_factory=set)
    """Those behind it whose effect is durable already."""

    def done(self, sequence: int) -> None:
        """Notes that the effect of a message is durable."""
        self.ahead.add(sequence)
        while self.upto + 1 in self.ahead:
            self.upto += 1
            self.ahead.discard(self.upto)


class AgentSession:
    """One session; implements `control.orders.Session`."""

    def __init__(
        self,
        node: NodeId,
        context: Context,
        greeter: Greeter,
        reports: Reports,
        questions: Questions,
        journal: Journal,
        idle_s: float,
    ) -> None:
        self._node = node
        self._context = context
        self._greeter = greeter
        self._reports = reports
        self._questions = questions
        self._journal = journal
        self._idle_s = idle_s
        self._acknowledge_s = min(ACKNOWLEDGE_S, idle_s / 4)
        self._orders: deque[Order] = deque()
        self._wake = asyncio.Event()
        self._ended_by: RunyardError | None = None
        self._acknowledged = _Acknowledged()
        self._told_acknowledged = 0
        self._acknowledging: asyncio.TimerHandle | None = None
        self._sent = 0
        self._received = 0
        self._faults = 0
        self._turns = asyncio.Semaphore(REPORTS_AT_ONCE)
        self.is_open = True
        """False from the end of the call on; whoever is still settling its Hello looks."""

    @property
    def node(self) -> NodeId:
        """Whose it is."""
        return self._node

    def send(self, order: Order) -> None:
        """Queues an order. There are as many as the node has attempts, so the queue is bounded."""
        self._orders.append(order)
        self._wake.set()

    def supersede(self) -> None:
        """Ends the session: a newer one of the same agent is open."""
        self._ended_by = SessionSuperseded(
            f"a newer session of {self._node} is open",
            hint="end the older agent, or give each its own folder",
            node=str(self._node),
        )
        self._wake.set()

    def turn_out(self) -> None:
        """Ends the session: its node has left."""
        self._ended_by = unauthenticated()
        self._wake.set()

    async def run(self, welcome: pb.Welcome, ended: list[AttemptReport]) -> None:
        """Serves the session to its end.

        Args:
            welcome: the answer to Hello, sent first.
            ended: reports of the Hello that are to be taken now.
        """
        self._received = self._acknowledged.upto = 1
        await self._write(pb.SessionResponse(welcome=welcome))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_orders(), name="session-orders")
                if ended:
                    group.create_task(self._reports.take(self._node, ended), name="hello-ended")
                await self._read(group)
        except* SessionOver:
            pass
        finally:
            if self._acknowledging is not None:
                self._acknowledging.cancel()

    async def _send_orders(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ended_by is not None:
                raise self._ended_by
            while self._orders:
                message, is_last = self._next_message()
                await self._write(message)
                if is_last:
                    raise SessionOver
            if self._acknowledging is None and self._acknowledged.upto > self._told_acknowledged:
                await self._write(pb.SessionResponse())

    def _next_message(self) -> tuple[pb.SessionResponse, bool]:
        """The next orders, leases and folders to forget together; and whether they are the last."""
        order = self._orders.popleft()
        if not isinstance(order, Lease | Forget):
            return to_message(order), isinstance(order, Goodbye)
        message = pb.SessionResponse()
        size_bytes = gather(message, order, resolve_environment)
        while (
            self._orders
            and isinstance(following := self._orders[0], Lease | Forget)
            and size_bytes < MESSAGE_BYTES
        ):
            size_bytes += gather(message, following, resolve_environment)
            self._orders.popleft()
        return message, False

    async def _write(self, message: pb.SessionResponse) -> None:
        self._sent += 1
        message.sequence = self._sent
        message.acknowledged = self._told_acknowledged = self._acknowledged.upto
        await self._context.write(message)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        async for request in incoming(self._context, self._idle_s):
            self._received += 1
            if request.sequence != self._received:
                raise SpecInvalid(
                    violations=[
                        ("sequence", f"{request.sequence} came instead of {self._received}")
                    ]
                )
            if request.HasField("environments"):  # before the answer that it comes with
                self._take_builds(request.environments)
            kind = request.WhichOneof("message")
            if kind == "workdir_collected":
                answer = request.workdir_collected
                collected = Collected(answer.file_count, answer.error, answer.is_gone)
                self._questions.answered(self._node, answer.request_id, collected)
            elif kind == "built_pruned":
                pruned = request.built_pruned
                self._questions.answered(self._node, pruned.request_id, to_pruned(pruned))
            elif kind is not None:
                self._fault(f"a second {kind} in one session")
            if request.reports or request.returned:
                await self._turns.acquire()
                group.create_task(self._take(request), name="session-reports")
            else:
                self._done(request.sequence)
        raise SessionOver

    def _take_builds(self, message: pb.BuiltEnvironments) -> None:
        """Takes what is built on the node; a fault where it makes no sense."""
        try:
            self._greeter.built(self, to_builds(message))
        except SpecInvalid as error:
            self._fault(error.message)

    async def _take(self, request: pb.SessionRequest) -> None:
        """Applies the reports of a message; an error of the store ends the session, so that they
        come again."""
        try:
            reports = [report for message in request.reports if (report := self._checked(message))]
            try:
                returned = [to_target(ref).ref for ref in request.returned]
            except SpecInvalid as error:
                self._fault(error.message)
                returned = []
            await self._reports.take(self._node, reports, returned)
        finally:
            self._turns.release()
        self._done(request.sequence)

    def _checked(self, message: pb.AttemptReport) -> AttemptReport | None:
        """A report as a value; None, and a fault, for one that makes no sense."""
        try:
            return to_report(message)
        except SpecInvalid as error:
            self._fault(error.message)
            return None

    def _done(self, sequence: int) -> None:
        self._acknowledged.done(sequence)
        if self._acknowledging is None:
            loop = asyncio.get_running_loop()
            self._acknowledging = loop.call_later(self._acknowledge_s, self._acknowledge)

    def _acknowledge(self) -> None:
        """No order came that would have taken the acknowledgement along."""
        self._acknowledging = None
        self._wake.set()

    def _fault(self, what: str) -> None:
        """Counts a message that makes no sense; too many end the session."""
        self._faults += 1
        self._journal.warning("agent_fault", node=self._node, what=what, count=self._faults)
        if self._faults >= FAULTS_MAX:
            raise SpecInvalid(
                f"{self._faults} messages of this session made no sense; the last: {what}",
                hint="update the agent to the daemon's version",
            )
