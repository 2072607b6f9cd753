"""What is to be said to the daemon: the newest state of each attempt that changed, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from runyard_agent import attempt as facts
from runyard_agent.attempt import Attempt
from runyard_agent.environments.records import Found
from runyard_contract.limits import BUILT_ENVIRONMENTS_MAX
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1.environments_pb2 import EnvironmentBuild

_Id = tuple[str, int, int]

HOLD_S: Mapping[facts.Phase.ValueType, float] = {
    pb.AttemptReport.PHASE_ACCEPTED: 0.05,
    pb.AttemptReport.PHASE_PREPARING: 0.05,
    pb.AttemptReport.PHASE_RUNNING: 0.05,
    pb.AttemptReport.PHASE_EXITED: 0.02,
}
"""How long news of an attempt may wait for what comes next; the end is told at once.

Each message costs a transaction: a run that is over within that time is one, not four.
"""
BUSY_HOLD_S = 0.2
BUSY_REPORTS = 32
"""How long any news may wait while leases wait here, and for how many: ends share a transaction."""
MESSAGE_REPORTS = 200
MESSAGE_LOG_BYTES = 1 << 20
"""Bounds of one message: the reports in it, and the log bytes that they carry."""


class Outbox:
    """Messages for the session, made when there is room to send one.

    While one message is on its way or held back, an attempt may change several times: what is sent
    next is how it is then. What is lost with a session is said again in the next one's Hello.

    Args:
        hold_s: how long news of each phase may wait.
        is_busy: whether the node has more leases than it can begin, so that nobody waits for it
            to say that it has room.
    """

    def __init__(
        self,
        hold_s: Mapping[facts.Phase.ValueType, float] = HOLD_S,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_busy = is_busy
        self._hold_s = hold_s
        self._changed: dict[int, tuple[float, Attempt]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._denied: dict[_Id, pb.AttemptReport] = {}
        self._is_denied_sent: set[_Id] = set()
        self._returned: list[pb.AttemptRef] = []
        self._answers: list[tuple[int | None, pb.SessionRequest]] = []
        self._built: pb.BuiltEnvironments | None = None
        self._is_built_said = True
        self._has_some = asyncio.Event()

    def changed(self, attempt: Attempt) -> None:
        """There is news of an attempt."""
        hold_s = self._hold_s.get(attempt.phase, 0.0)
        if self.is_busy():
            hold_s = BUSY_HOLD_S if len(self._changed) < BUSY_REPORTS else 0.0
        due_s = time.monotonic() + hold_s
        if id(attempt) in self._changed:
            due_s = min(due_s, self._changed[id(attempt)][0])
        self._changed[id(attempt)] = due_s, attempt
        if hold_s:
            self._wake_at(due_s)
        else:
            self._has_some.set()

    def hurry(self) -> None:
        """Nothing is to be held back for being busy any more."""
        for place, (_, attempt) in self._changed.items():
            if not self._hold_s.get(attempt.phase):
                self._changed[place] = 0.0, attempt
                self._has_some.set()

    def _wake_at(self, due_s: float) -> None:
        """Has what is held back looked at in time."""
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due_s, self._on_time)

    def _on_time(self) -> None:
        """Something that was held back is due."""
        self._timer = None
        self._has_some.set()

    def forget(self, attempt: Attempt) -> None:
        """Nothing more is to be said of an attempt."""
        self._changed.pop(id(attempt), None)

    def give_back(self, ref: pb.AttemptRef) -> None:
        """Says that a lease was not begun and never will be."""
        self._returned.append(ref)
        self._has_some.set()

    def deny(self, ref: pb.AttemptRef, end: pb.AttemptEnd | None = None) -> None:
        """Says that an attempt was never started here; without `end`, because it was cancelled."""
        report = pb.AttemptReport(
            ref=ref,
            phase=pb.AttemptReport.PHASE_ENDED,
            end=end
            or facts.failed(
                pb.AttemptEnd.REASON_NEVER_STARTED,
                "cancelled before it reached the node",
                stopped_by=pb.AttemptEnd.STOPPED_BY_CANCEL,
            ),
        )
        key = (ref.run, ref.attempt, ref.epoch)
        self._denied[key] = report
        self._is_denied_sent.discard(key)
        self._has_some.set()

    def withdraw(self, ref: pb.AttemptRef) -> None:
        """The daemon has heard of a denied attempt."""
        self._denied.pop((ref.run, ref.attempt, ref.epoch), None)

    def answer(self, message: pb.WorkdirCollected | pb.BuiltPruned) -> None:
        """Answers what the daemon asked; said again in each session until acknowledged."""
        request = (
            pb.SessionRequest(workdir_collected=message)
            if isinstance(message, pb.WorkdirCollected)
            else pb.SessionRequest(built_pruned=message)
        )
        self._answers.append((None, request))
        self._has_some.set()

    def say_built(self, found: Sequence[Found]) -> None:
        """Says which environments are built here, where that has changed; the newest used first."""
        newest = sorted(found, key=lambda one: one.last_used_unix_ns, reverse=True)
        built = pb.BuiltEnvironments(builds=map(to_build, newest[:BUILT_ENVIRONMENTS_MAX]))
        if built != self._built:
            self._built = built
            self._is_built_said = False
            self._has_some.set()

    def acknowledged(self, sequence: int) -> None:
        """The daemon has all messages of this session up to this one."""
        if self._answers:
            self._answers = [
                (sent, message)
                for sent, message in self._answers
                if sent is None or sent > sequence
            ]

    def new_session(self) -> list[pb.AttemptReport]:
        """A session begins with a Hello of all attempts; gives the reports that only we hold.

        What was given back is not in the Hello either: that says it.
        """
        self._changed.clear()
        self._returned.clear()
        self._is_denied_sent = set(self._denied)
        self._answers = [(None, message) for _, message in self._answers]
        self._is_built_said = self._built is None
        if self._answers or not self._is_built_said:
            self._has_some.set()
        return list(self._denied.values())

    async def wait(self, timeout_s: float | None) -> bool:
        """Waits until there is something to say; False when the time is over first."""
        if not self._has_some.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._has_some.wait()
            except TimeoutError:
                return False
        return True

    def take(self, sequence: int) -> pb.SessionRequest | None:
        """The next message, which will be number `sequence`; None when all that is due is said."""
        message = pb.SessionRequest(
            sequence=sequence, reports=self._take_reports(), returned=self._returned
        )
        self._returned.clear()
        if not self._is_built_said:
            self._is_built_said = True
            message.environments.CopyFrom(self._built or pb.BuiltEnvironments())
        for index, (sent, answer) in enumerate(self._answers):
            if sent is None:
                self._answers[index] = (sequence, answer)
                message.MergeFrom(answer)
                return message
        if message.reports or message.returned or message.HasField("environments"):
            return message
        self._has_some.clear()
        if self._changed:
            self._wake_at(min(due_s for due_s, _ in self._changed.values()))
        return None

    def _take_reports(self) -> list[pb.AttemptReport]:
        """The reports for one message."""
        reports: list[pb.AttemptReport] = []
        for key, report in self._denied.items():
            if key not in self._is_denied_sent:
                self._is_denied_sent.add(key)
                reports.append(report)
        now_s = time.monotonic()
        if any(due_s <= now_s for due_s, _ in self._changed.values()):
            self._take_due(reports, now_s)
        return reports

    def _take_due(self, reports: list[pb.AttemptReport], now_s: float) -> None:
        """Adds the news that are due, and with them every end: one transaction for all."""
        size_bytes = 0
        for place, (due_s, attempt) in list(self._changed.items()):
            if due_s <= now_s or attempt.phase == pb.AttemptReport.PHASE_ENDED:
                del self._changed[place]
                report = attempt.report()
                reports.append(report)
                size_bytes += sum(len(piece.data) for piece in report.pieces)
            if len(reports) >= MESSAGE_REPORTS or size_bytes >= MESSAGE_LOG_BYTES:
                return


def to_build(found: Found) -> EnvironmentBuild:
    """A built environment on the wire."""
    record = found.record
    message = EnvironmentBuild(
        lock_hash=record.of_lock or record.lock_hash,
        key=record.lock_hash,
        size_bytes=record.size_bytes,
        hits=found.hits,
    )
    message.create_time.FromNanoseconds(record.created_at_unix_ns)
    message.last_use_time.FromNanoseconds(found.last_used_unix_ns)
    return message
