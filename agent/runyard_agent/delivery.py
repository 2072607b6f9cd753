"""What the daemon gets of one attempt: logs as they grow, outputs, the state of its folder."""

from __future__ import annotations

import asyncio

from runyard_agent import journal, workfiles
from runyard_agent.attempt import Attempt, Stopwatch
from runyard_agent.bundles import file_size
from runyard_agent.live import LiveFiles
from runyard_agent.node import Node
from runyard_agent.outputs import OutputFiles
from runyard_agent.shipping.growing import ORDER_FILE, STDERR_FILE, STDOUT_FILE, GrowingFiles
from runyard_contract.errors import LeaseSuperseded, RunyardError
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

SHORT_RUN_S = 0.1
"""So long the first bytes of a run in a burst may wait for its end."""
SMALL_INDEX_BYTES = 8 << 10
FREE_EACH_BYTES = 4 << 20
REST_BYTES = 64 << 10
"""So much of the logs may go with the last report."""
ENGINE_AWAY = "the container engine does not answer; waiting until it is back"
_JOB_FILES = (pb.AppendFilesRequest.FILE_METRICS, pb.AppendFilesRequest.FILE_TAGS)
_PRINTED_FILES = (STDOUT_FILE, STDERR_FILE, ORDER_FILE)


class Delivery:
    """Ships what an attempt makes. Call `begin` first, `finish` after its end, `close` last.

    Args:
        is_new: the daemon can't have anything of the attempt yet.
    """

    def __init__(self, node: Node, attempt: Attempt, *, is_new: bool) -> None:
        self._node = node
        self._attempt = attempt
        self._bundle = attempt.bundle.path
        free_each = min(FREE_EACH_BYTES, node.config.spool_bound_bytes // 4)
        self.files = GrowingFiles(
            attempt.lease.ref,
            self._bundle,
            is_new=is_new,
            free_each_bytes=max(1, free_each),
            freed=self._freed,
        )
        self._outputs = OutputFiles(
            attempt.lease.ref, attempt.bundle, node.link, node.sender, attempt.warn
        )
        self._log_timer: asyncio.TimerHandle | None = None
        self._is_log_live = not attempt.lease.is_ahead
        self._is_dropped = False

    def begin(self) -> None:
        """Ships from now on what grows."""
        self._node.appender.add(self.files)

    def drop(self) -> None:
        """Nobody wants anything of the attempt any more."""
        self._is_dropped = True
        self._node.appender.remove(self.files)

    def _freed(self, stdout_bytes: int, stderr_bytes: int) -> None:
        """Spool space was freed: the job may go on writing."""
        self._node.executor.acknowledged(self._bundle, stdout_bytes, stderr_bytes)

    def output(self) -> None:
        """The run has printed something: of one in a burst it may wait for the end."""
        if self._is_log_live:
            self._look()
        elif self._log_timer is None:
            loop = asyncio.get_running_loop()
            self._log_timer = loop.call_later(SHORT_RUN_S, self._go_live)

    def _go_live(self) -> None:
        """It is no short run: its log is sent as it comes."""
        self._is_log_live = True
        self._look()

    def _look(self) -> None:
        """The growing files may have grown."""
        self._node.appender.wake(self.files)

    def live(self) -> LiveFiles:
        """Looks, while the run is executed, for what gives no signal."""
        node = self._node
        look = self._look_at_container if self._attempt.execution.get("container") else self._look
        return LiveFiles(node.config.poll_s, node.first_looks, look, self._collect_live)

    def _look_at_container(self) -> None:
        """Also tells whether the engine of the run's container is away."""
        if self._attempt.bundle.is_engine_away:
            self._attempt.say(ENGINE_AWAY)
        elif self._attempt.status_message == ENGINE_AWAY:
            self._attempt.say("")
        self._look()

    async def _collect_live(self, with_outputs: bool) -> None:
        """Sends what the running job has finished writing."""
        prefixes = ("logs/", "", "outputs/") if with_outputs else ("logs/", "")
        try:
            await self._outputs.collect(prefixes, settle_s=self._node.config.settle_s)
        except (RunyardError, OSError) as error:
            journal.info("live_files", bundle=self._bundle, why=str(error))

    async def finish(self, end: pb.AttemptEnd, *, has_printed: bool) -> None:
        """Reports the end, and sends what is left. Without `has_printed` there is no log."""
        attempt = self._attempt
        self._stop_timer()
        watch = Stopwatch("outputs")
        attempt.end = end
        attempt.is_untouched = self._is_untouched(end)
        has_environment_log = attempt.has_environment_log or attempt.is_resumed
        attempt.lengths = self.files.finish(
            (
                *(() if has_environment_log else (pb.AppendFilesRequest.FILE_ENVIRONMENT,)),
                *(_JOB_FILES if attempt.is_untouched else ()),
                *(() if has_printed else _PRINTED_FILES),
            )
        )
        attempt.status_message = ""
        rest = self.files.rest(REST_BYTES)
        attempt.advance(pb.AttemptReport.PHASE_EXITED)
        if rest is None:
            self._node.appender.wake(self.files)
        else:
            self._node.appender.remove(self.files)
        if attempt.is_untouched:
            attempt.workdir = runs_pb2.WorkdirSummary()
        else:
            await self._collect_outputs()
            attempt.workdir = await self._summary()
        if rest is None:
            await self.complete_logs()
        else:
            attempt.pieces = rest
        attempt.spans.append(watch.stop())

    def _is_untouched(self, end: pb.AttemptEnd) -> bool:
        """Whether the run has left its folders as they were, so that nothing is to be sent."""
        attempt = self._attempt
        if attempt.laid is None or attempt.started_at_unix_ns is None:
            return False
        is_by_itself = end.reason == pb.AttemptEnd.REASON_EXITED and not end.stopped_by
        return is_by_itself and attempt.laid.is_untouched(self._bundle, attempt.started_at_unix_ns)

    async def _collect_outputs(self) -> None:
        """Sends the outputs; again in a later session where the daemon refuses the attempt now."""
        while not self._is_dropped:
            try:
                await self._outputs.collect()
                return
            except LeaseSuperseded:
                self._node.appender.add(self.files)  # so that a new connection is heard of
                self.files.is_refused = True
                await self._node.appender.wanted(self.files)

    async def complete_logs(self) -> None:
        """Waits until the daemon has the logs, or wants them no more."""
        self._attempt.lengths = self.files.finish()
        self._node.appender.wake(self.files)
        if await self._node.appender.complete(self.files):
            self._attempt.lengths = self.files.finish()

    async def _summary(self) -> runs_pb2.WorkdirSummary | None:
        """What the script left in its working folder; None where it never had one."""
        bundle = self._attempt.bundle
        index = self._attempt.work_index
        index_bytes = file_size(bundle.work_index) if index is None else 0
        if index is None and not index_bytes:
            return None
        if index_bytes <= SMALL_INDEX_BYTES and workfiles.is_small(bundle.work):
            return workfiles.summary(bundle, index)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._node.disk, workfiles.summary, bundle)

    def close(self) -> None:
        """Ships no more."""
        self._stop_timer()
        self._node.appender.remove(self.files)

    def _stop_timer(self) -> None:
        if self._log_timer is not None:
            self._log_timer.cancel()
