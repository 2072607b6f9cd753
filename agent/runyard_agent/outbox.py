"""What is to be said to the daemon: the newest state of each attempt that changed, once."""

from __future__ import annotations

import asyncio

from runyard_agent import attempt as facts
from runyard_agent.attempt import Attempt
from runyardpb.agent.v1 import agent_pb2 as pb

_Id = tuple[str, int, int]


class Outbox:
    """Messages for the session, made when there is room to send one.

    While one message is on its way, an attempt may change several times: what is sent next is how
    it is then. What is lost with a session is said again in the next one's Hello.
    """

    def __init__(self) -> None:
        self._changed: dict[int, Attempt] = {}
        self._denied: dict[_Id, pb.AttemptReport] = {}
        self._is_denied_sent: set[_Id] = set()
        self._collected: list[tuple[int | None, pb.WorkdirCollected]] = []
        self._has_some = asyncio.Event()

    def changed(self, attempt: Attempt) -> None:
        """There is news of an attempt."""
        self._changed[id(attempt)] = attempt
        self._has_some.set()

    def forget(self, attempt: Attempt) -> None:
        """Nothing more is to be said of an attempt."""
        self._changed.pop(id(attempt), None)

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

    def say_collected(self, message: pb.WorkdirCollected) -> None:
        """Answers for a working folder; said again in each session until acknowledged."""
        self._collected.append((None, message))
        self._has_some.set()

    def acknowledged(self, sequence: int) -> None:
        """The daemon has all messages of this session up to this one."""
        self._collected = [
            (sent, message) for sent, message in self._collected if sent is None or sent > sequence
        ]

    def new_session(self) -> list[pb.AttemptReport]:
        """A session begins with a Hello of all attempts; gives the reports that only we hold."""
        self._changed.clear()
        self._is_denied_sent = set(self._denied)
        self._collected = [(None, message) for _, message in self._collected]
        if self._collected:
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
        """The next message, which will be number `sequence`; None when all is said."""
        if self._changed:
            attempt = self._changed.pop(next(iter(self._changed)))
            return pb.SessionRequest(sequence=sequence, report=attempt.report())
        for key, report in self._denied.items():
            if key not in self._is_denied_sent:
                self._is_denied_sent.add(key)
                return pb.SessionRequest(sequence=sequence, report=report)
        for index, (sent, message) in enumerate(self._collected):
            if sent is None:
                self._collected[index] = (sequence, message)
                return pb.SessionRequest(sequence=sequence, workdir_collected=message)
        self._has_some.clear()
        return None
