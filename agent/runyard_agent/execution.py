"""The life of one attempt on this node, from its lease until the daemon has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from runyard_agent import attempt as facts
from runyard_agent import journal, prepare
from runyard_agent.attempt import Attempt, Span, Stopwatch
from runyard_agent.core.reconcile import Recovery
from runyard_agent.delivery import Delivery
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.executors.protocol import ExecutorUnavailable, ExitRecord
from runyard_agent.gpus import GpusTaken
from runyard_agent.node import Node
from runyard_agent.workdir import LayoutFailed
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

RECOVER_RETRY_S = 2.0
_LENGTHS = ("stdout_bytes", "stderr_bytes", "order_bytes")
SYNC_AFTER_S = 2.0
"""An end that the daemon has not taken over by then is made durable here."""


class _Stage(StrEnum):
    """Where `run` is, as far as a cancel must know."""

    NEW = "new"
    PREPARING = "preparing"
    HANDED_OVER = "handed over"
    OVER = "over"


class Refused(Exception):
    """The supervisor will not execute the bundle."""


class Execution:
    """Drives one attempt; the executor's Follower. `run` is its whole life."""

    def __init__(
        self, node: Node, attempt: Attempt, *, is_new: bool, left: Callable[[], None]
    ) -> None:
        """`left` is called when the run has left its slot."""
        self.attempt = attempt
        attempt.is_resumed = not is_new
        self.is_dropped = False
        self.is_returned = False
        """It came ahead and has not begun in time: it is to begin elsewhere, and never here."""
        self._left = left
        self._node = node
        self._bundle = attempt.bundle.path
        self._delivery = Delivery(node, attempt, is_new=is_new)
        self._stage = _Stage.NEW
        self._task: asyncio.Task[None] | None = None
        self._exit: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()
        self._start_watch: Stopwatch | None = None
        self._stop_grace_s: float | None = None
        self._has_printed = True
        self._gpus: tuple[int, ...] = ()

    # What the executor tells

    def started(self, at_unix_ns: int) -> None:
        """See Follower."""
        if self._start_watch is not None:
            self.attempt.spans.append(self._start_watch.stop())
            self._start_watch = None
        self.attempt.started(at_unix_ns)

    def output(self) -> None:
        """See Follower."""
        self._delivery.output()

    def stuck(self, pids: tuple[int, ...]) -> None:
        """See Follower."""
        if not pids:
            self.attempt.warn(
                "the container engine does not answer: the slot is held until it is certain that "
                "the run's container is gone"
            )
            return
        shown = ", ".join(str(pid) for pid in pids[:10])
        self.attempt.warn(f"processes that can't be killed hold the slot: {shown}")

    def disk_full(self) -> None:
        """See Follower."""
        self.attempt.warn(
            "the node's disk was full: what the run printed, and its end, waited for room "
            "(free space there, see `df -h`)"
        )

    def held_up(self, why: str) -> None:
        """See Follower."""
        self.attempt.say(f"ending what is left of the run: {why}")

    def exited(self, record: ExitRecord) -> None:
        """See Follower."""
        if not self._exit.done():
            self._node.unbegun.drop(self)
            self._exit.set_result(record)
            self._left()

    def refused(self, why: str) -> None:
        """See Follower."""
        if not self._exit.done():
            self._exit.set_exception(Refused(why))
            self._left()

    # What the daemon wants

    @property
    def is_over(self) -> bool:
        """Whether the daemon has all of it (or nobody wants it)."""
        return self._stage is _Stage.OVER

    @property
    def is_active(self) -> bool:
        """Whether it uses the node: from its lease until its processes are gone."""
        return self._stage is not _Stage.OVER and not self._exit.done()

    def cancel(self, grace_s: float) -> None:
        """Ends the attempt; harmless when repeated."""
        first = self._stop_grace_s is None
        self._stop_grace_s = grace_s
        if self._stage is _Stage.PREPARING and first and self._task is not None:
            self._task.cancel()
        elif self._stage is _Stage.HANDED_OVER:
            self._node.executor.stop(self._bundle, "cancel", grace_s)

    def drop(self) -> None:
        """Ends the attempt at once; nobody wants to hear of it any more."""
        if not self.is_dropped:
            self.is_dropped = True
            self._delivery.drop()
            self.cancel(0.0)

    # The life

    async def run(self, how: Recovery) -> None:
        """Executes, follows, ships and reports. Returns when nothing is left to be done."""
        self._task = asyncio.current_task()
        self._delivery.begin()
        try:
            end = await self._execute(how)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            journal.failure("attempt_failed", error, bundle=self._bundle)
            end = facts.failed(
                pb.AttemptEnd.REASON_AGENT_FAILED,
                f"the agent could not go on with this run: {type(error).__name__}: {error}",
                "see agent.log in the data directory, then submit again",
            )
        self._node.gpus.give(self._gpus)
        self._gpus = ()
        self._node.environments.release(self._bundle)
        if not self._exit.done():  # it has not come to the supervisor
            self._node.executor.release(self._bundle)
            self._exit.cancel()
            self._left()
        if self.is_returned:
            self._stage = _Stage.OVER
            return
        try:
            if not self.is_dropped:
                await self._delivery.finish(end, has_printed=self._has_printed)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Its logs and its end are what counts: they go on their own ways.
            journal.failure("finish_failed", error, bundle=self._bundle)
            self.attempt.warn(f"not all files could be sent: {type(error).__name__}: {error}")
            await self._delivery.complete_logs()
        self._stage = _Stage.OVER
        if not self.is_dropped:
            self.attempt.advance(pb.AttemptReport.PHASE_ENDED)
            self._node.unheard_ends.set(self, self._sync)

    def _sync(self) -> None:
        """The daemon has not acknowledged the end yet: our copy of it counts."""
        self._node.disk.submit(self.attempt.bundle.sync_exit)

    async def _execute(self, how: Recovery) -> pb.AttemptEnd:
        """Gets the program to its end, and tells that end."""
        if how is Recovery.PREPARE:
            end = await self._prepare()
            if end is not None:
                return end
        else:
            self._remember()
            if how is Recovery.FINISH:
                self.exited(self.attempt.bundle.read_exit() or {})
            elif how is not Recovery.FOLLOW:
                self.exited(await self._recover())
        self._stage = _Stage.HANDED_OVER
        if self._stop_grace_s is not None:
            self._node.executor.stop(self._bundle, "cancel", self._stop_grace_s)
        elif self.attempt.lease.is_ahead:
            self._node.unbegun.set(self, self._give_back)
        try:
            record = await self._follow()
        except Refused as refused:
            return facts.failed(
                pb.AttemptEnd.REASON_AGENT_FAILED,
                f"the node's supervisor refused the run: {refused}",
                "submit again",
            )
        self.is_returned = record.get("stopped_by") == "returned"
        if record.get("limits"):
            self.attempt.execution["limits"] = str(record["limits"])
        self._has_printed = any(record.get(length) != 0 for length in _LENGTHS)
        known = {span.phase for span in self.attempt.spans}
        self.attempt.spans.extend(s for s in facts.spans_of(record) if s.phase not in known)
        if self.attempt.started_at_unix_ns is None and record.get("reason") != "never_started":
            self.attempt.started_at_unix_ns = record.get("started_at_unix_ns")
        return facts.end_of(record, self.attempt.bundle.work)

    async def _prepare(self) -> pb.AttemptEnd | None:
        """Lays everything out and hands it over; an end where it does not come to that."""
        self._stage = _Stage.PREPARING
        try:
            if self._stop_grace_s is not None:
                return _never_started()
            return await self._make_ready()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stop_grace_s is None or task is None or task.uncancel() > 0:
                raise
            return _never_started()
        except LayoutFailed as error:
            reason = pb.AttemptEnd.REASON_SNAPSHOT_FAILED
            return facts.failed(reason, error.message, error.advice, error.metadata)
        except EnvironmentFailed as error:
            reason = pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
            return facts.failed(reason, error.message, error.advice, error.metadata)
        except (ExecutorUnavailable, GpusTaken) as error:
            return facts.failed(pb.AttemptEnd.REASON_AGENT_FAILED, str(error), "submit again")

    async def _make_ready(self) -> pb.AttemptEnd | None:
        """The steps from lease to supervisor."""
        node, attempt = self._node, self.attempt
        spec = attempt.lease.spec
        attempt.advance(pb.AttemptReport.PHASE_PREPARING)
        log = prepare.EnvironmentLog(node, attempt, self._delivery.files)
        if spec.kind == runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD:
            if prepare.needs_snapshot(node, attempt):
                await prepare.lay_out_snapshot(node, attempt)
            await prepare.provide_environment(node, attempt, log)
            return facts.failed(pb.AttemptEnd.REASON_BUILT, "the environment is built")
        await prepare.lay_out_snapshot(node, attempt)
        environment = await prepare.provide_environment(node, attempt, log)
        self._start_watch = Stopwatch("start")
        self._gpus = node.gpus.take(spec.resources.gpu_count)
        prepare.write_spec(node, attempt, environment, self._gpus)
        await node.executor.start(self._bundle, self)
        prepare.build_for_the_next(node, attempt)
        return None

    def _give_back(self) -> None:
        """What came ahead and still waits behind another run is to begin elsewhere."""
        if self.attempt.started_at_unix_ns is None and not self._exit.done():
            self._node.executor.stop(self._bundle, "returned", 0.0)

    def claim_environment(self) -> None:
        """Keeps the environment that an earlier agent gave it, until its processes are gone."""
        spec = self.attempt.bundle.read_spec() or {}
        lock_hash = (spec.get("agent") or {}).get("environment")
        if isinstance(lock_hash, str) and self.attempt.bundle.read_exit() is None:
            self._node.environments.uses.has(self._bundle, lock_hash)

    def _remember(self) -> None:
        """Takes up what an earlier agent knew of the attempt."""
        spec = self.attempt.bundle.read_spec() or {}
        kept = spec.get("agent") or {}
        self.attempt.spans.extend(Span(*values) for values in kept.get("spans", ()))
        self.attempt.execution.update(kept.get("execution") or {})
        for warning in kept.get("warnings", ()):
            self.attempt.warn(str(warning))
        state = self.attempt.bundle.read_state() or {}
        if isinstance(state.get("pid"), int):
            self.attempt.started(int(state["started_at_unix_ns"]))
        if self.attempt.bundle.read_exit() is None:
            self._gpus = tuple(int(index) for index in kept.get("gpus", ()))
            self._node.gpus.claim(self._gpus)

    async def _recover(self) -> ExitRecord:
        """The end of a run that nobody watches; asked for until its processes are gone."""
        while True:
            try:
                return await self._node.executor.recover(self._bundle)
            except ExecutorUnavailable as error:
                journal.warning("recover_failed", bundle=self._bundle, why=str(error))
                self.held_up(str(error))
                await asyncio.sleep(RECOVER_RETRY_S)

    async def _follow(self) -> ExitRecord:
        """Waits for the end, and looks meanwhile for what gives no signal."""
        live = self._delivery.live()
        live.start()
        try:
            return await self._exit
        finally:
            await live.stop()

    def close(self) -> None:
        """Gives back what it holds; after `run`, or when it was cancelled."""
        self._delivery.close()
        self._node.unheard_ends.drop(self)
        self._node.unbegun.drop(self)
        if self._exit.done() and not self._exit.cancelled():
            self._exit.exception()  # seen


def _never_started() -> pb.AttemptEnd:
    """The end of what was cancelled in time."""
    return facts.failed(
        pb.AttemptEnd.REASON_NEVER_STARTED,
        "cancelled before the program was started",
        stopped_by=pb.AttemptEnd.STOPPED_BY_CANCEL,
    )
