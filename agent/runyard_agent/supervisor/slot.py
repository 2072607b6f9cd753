"""The supervisor of one slot: spawns run after run, each proven gone before the next starts."""

from __future__ import annotations

import errno
import os
import signal
import socket

from runyard_agent.supervisor import record
from runyard_agent.supervisor.clock import boot_ns
from runyard_agent.supervisor.disk import Reserve
from runyard_agent.supervisor.job import SECOND_NS, Job
from runyard_agent.supervisor.line import Line
from runyard_agent.supervisor.reactor import READ, Reactor
from runyard_agent.supervisor.wire import encode_around

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runyard_agent.supervisor.stash import Stash
    from runyard_agent.supervisor.streams import Stream
    from runyard_agent.supervisor.wire import Message

ORPHANED = signal.SIGUSR1
"""Comes when the parent dies."""
SLOT_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, ORPHANED})
RETURNED = "returned"
"""Who stops a run that is to start elsewhere; only one that has not started here."""
QUEUE_RUNS = 2
"""How many runs may wait behind the one that is executed."""
OUTPUT_PAUSE_NS = 4_000_000
STUCK_REPEAT_NS = 30 * SECOND_NS
DISK_RETRY_NS = SECOND_NS


class Slot:
    """All state of a slot's supervisor; `run` is its whole life."""

    def __init__(
        self, number: int, listener: socket.socket, link: socket.socket, stash: Stash
    ) -> None:
        self._number = number
        self._listener = listener
        self._link = link
        self._links: set[socket.socket] = set()
        self._stash = stash
        self._reserve = Reserve(listener.getsockname().removesuffix(".sock") + ".room")
        self._reactor = Reactor()
        self._null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._agent = Line(self._reactor, listener, self._greet, self._obey)
        self._job: Job | None = None
        self._is_draining = False
        self._queue: list[str] = []
        self._unrecorded: list[Job] = []
        self._record_at_ns: int | None = None
        self._told: tuple[int, int] = (0, 0)
        self._told_at_ns = 0
        self._stuck_at_ns = 0
        self._is_leaving = False
        self._is_orphaned = False

    def run(self) -> None:
        """Serves until it is told to leave, or is left by all, and has nothing left to do.

        Whoever forks it has blocked SLOT_SIGNALS.
        """
        self._reactor.on_signal(signal.SIGCHLD, self._on_child)
        self._reactor.on_signal(signal.SIGTERM, self._on_leave)
        self._reactor.on_signal(ORPHANED, self._on_orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SLOT_SIGNALS)
        self._reactor.watch(self._link.fileno(), READ, self._on_link)
        while not (self._is_idle and self._is_unwanted):
            self._reactor.poll(self._next_deadline_ns())
            if self._job is not None:
                self._job.note_running()
            self._on_time(boot_ns())
        self._reserve.release()
        for listener in (self._listener, self._link):
            try:
                os.unlink(listener.getsockname())
            except FileNotFoundError:
                pass  # the folder was tidied by someone else

    @property
    def _is_idle(self) -> bool:
        return self._job is None and not self._queue and not self._unrecorded

    @property
    def _is_unwanted(self) -> bool:
        return self._is_leaving or (self._is_orphaned and not self._agent.is_open)

    # Agent and parent

    def _greet(self) -> None:
        """A new connection hears first what this slot is doing."""
        job = self._job
        self._agent.tell(
            {
                "event": "hello",
                "slot": self._number,
                "pid": os.getpid(),
                "bundle": job.bundle if job else None,
                "phase": job.phase if job else "idle",
                "queued": self._queue,
            }
        )
        if job is not None and job.spool is not None:
            self._tell_output(job)

    def _on_link(self, events: int) -> None:
        """A parent started after the death of ours gets the stash; the open line says we live."""
        try:
            peer, _ = self._link.accept()
            socket.send_fds(peer, [b"%d" % os.getpid()], [self._stash.outlet.fileno()])
        except OSError:
            return
        self._links.add(peer)

        def on_end(events: int) -> None:
            self._reactor.forget(peer.fileno())
            self._links.discard(peer)
            peer.close()

        self._reactor.watch(peer.fileno(), READ, on_end)

    def _obey(self, message: Message) -> None:
        op, bundle = message.get("op"), message.get("bundle")
        if op == "shutdown":
            self._is_leaving = self._is_idle
        elif not isinstance(bundle, str) or not os.path.isabs(bundle) or "\0" in bundle:
            self._refuse(op, None, "not a command with the absolute path of a bundle")
        elif op == "spawn":
            self._enqueue(bundle)
        elif op == "stop":
            self._stop(bundle, message)
        elif op == "acked":
            self._acknowledge(bundle, message)
        else:
            self._refuse(op, bundle, "unknown command")

    def _refuse(self, op: Any, bundle: str | None, why: str) -> None:
        name = op if isinstance(op, str) else None
        self._agent.tell({"event": "refused", "op": name, "bundle": bundle, "why": why})

    def _stop(self, bundle: str, message: Message) -> None:
        by = message.get("by")
        try:
            grace_s = record.seconds(message.get("grace_s", 30.0))
        except record.SpecInvalid as error:
            self._refuse("stop", bundle, f"grace_s: {error}")
            return
        if by not in ("cancel", "timeout", RETURNED):
            self._refuse("stop", bundle, "by is neither cancel nor timeout nor returned")
        elif by == RETURNED and bundle not in self._queue:
            self._refuse("stop", bundle, "not waiting in this slot")
        elif self._job is not None and self._job.bundle == bundle:
            self._job.stop(by, grace_s)
        elif bundle in self._queue:
            self._queue.remove(bundle)
            self._record_never_started(bundle, by)
        else:
            self._refuse("stop", bundle, "not in this slot")

    def _acknowledge(self, bundle: str, message: Message) -> None:
        stdout, stderr = message.get("stdout"), message.get("stderr")
        job = self._job
        if job is None or job.bundle != bundle or job.spool is None:
            return  # crossed the end of the run
        if isinstance(stdout, int) and isinstance(stderr, int):
            job.spool.acknowledge((stdout, stderr))
            self._watch_streams(job)
        else:
            self._refuse("acked", bundle, "stdout and stderr are lengths in bytes")

    # Runs

    def _enqueue(self, bundle: str) -> None:
        if bundle in self._queue or (self._job is not None and self._job.bundle == bundle):
            self._refuse("spawn", bundle, "already in this slot")
        elif record.is_taken(bundle):
            self._refuse("spawn", bundle, "this attempt was executed before")
        elif len(self._queue) >= QUEUE_RUNS:
            self._refuse("spawn", bundle, f"{QUEUE_RUNS} runs are waiting in this slot")
        else:
            self._queue.append(bundle)
            self._start_next()

    def _start_next(self) -> None:
        while self._queue and self._job is None:
            bundle = self._queue.pop(0)
            try:
                job = Job(bundle, record.read_spec(bundle), self._number)
            except FileExistsError:
                self._refuse("spawn", bundle, "this attempt was executed before")
                continue
            except (record.SpecInvalid, OSError) as error:
                self._refuse("spawn", bundle, str(error))
                continue
            self._job = job
            self._is_draining = False
            self._told, self._told_at_ns = (0, 0), 0
            self._reserve.keep()
            job.start(self._stash, self._null_fd)
            if job.has_ended:
                self._finish(job)
            else:
                self._watch_streams(job)
                at = job.started_at_unix_ns
                self._agent.tell(
                    {"event": "started", "bundle": bundle, "pid": job.pid, "at_unix_ns": at}
                )

    def _on_child(self) -> None:
        job = self._job
        if job is None:
            return
        is_alone = job.reap()
        if job.has_ended and is_alone:
            if job.outside.end():
                self._drain(job)
        elif job.has_ended and not job.is_sweeping and not job.outside.is_ending:
            job.sweep()

    def _drain(self, job: Job) -> None:
        self._is_draining = True
        spool = job.spool
        if spool is None or spool.drain() or (self._reserve.release() and spool.drain()):
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """The run is over: first the next one starts, then this one is recorded."""
        if job.spool is not None:
            for stream in job.spool.streams:
                self._unwatch(stream)
        self._job = None
        self._is_draining = False
        self._unrecorded.append(job)
        self._agent.hold()
        self._start_next()
        self._record()
        self._agent.release()

    def _record(self) -> None:
        """Writes the exit records that are due; on a full disk again in a second."""
        self._record_at_ns = None
        while self._unrecorded:
            job = self._unrecorded[0]
            content = record.encode(job.exit_record())
            try:
                fd = record.put(job.bundle, record.EXIT, content)
            except FileNotFoundError:  # the bundle was removed: nobody is left to read it
                fd = -1
            except OSError:
                if self._reserve.release():
                    continue
                self._record_at_ns = boot_ns() + DISK_RETRY_NS
                self._tell_disk_full(job)
                return
            del self._unrecorded[0]
            message = {"event": "exited", "bundle": job.bundle}
            self._agent.tell_line(encode_around(message, "exit", content))
            self._agent.release()
            job.close(self._stash)
            if not self._agent.is_open:
                _sync(fd)
            elif fd >= 0:  # whoever hears of the end has it sent, or syncs it
                os.close(fd)

    def _record_never_started(self, bundle: str, by: str) -> None:
        try:
            identity = record.read_spec(bundle).identity
        except record.SpecInvalid:
            identity = {}
        content = record.exit_record(identity, "never_started", stopped_by=by)
        try:
            fd = record.replace(bundle, record.EXIT, content)
        except OSError as error:
            self._refuse("stop", bundle, f"taken out of the queue, but unrecorded: {error}")
            return
        self._agent.tell({"event": "exited", "bundle": bundle, "exit": content})
        _sync(fd)

    # Output

    def _watch_streams(self, job: Job) -> None:
        if job.spool is None:
            return
        for stream in job.spool.streams:
            if not job.spool.wants(stream):
                self._unwatch(stream)
            elif not stream.is_watched:
                stream.is_watched = True
                self._reactor.watch(stream.fifo_fd, READ, self._reader(job, stream))

    def _unwatch(self, stream: Stream) -> None:
        if stream.is_watched:
            stream.is_watched = False
            self._reactor.forget(stream.fifo_fd)

    def _reader(self, job: Job, stream: Stream) -> Any:
        def on_bytes(events: int) -> None:
            if job.spool is not None:
                job.spool.pump(stream)
                self._watch_streams(job)

        return on_bytes

    def _tell_output(self, job: Job) -> None:
        if job.spool is None:
            return
        self._told, self._told_at_ns = job.spool.lengths(), boot_ns()
        self._agent.tell(
            {
                "event": "output",
                "bundle": job.bundle,
                "stdout": self._told[0],
                "stderr": self._told[1],
                "order": job.spool.order_bytes,
            }
        )

    # Time

    def _output_at_ns(self) -> int | None:
        job = self._job
        if not self._agent.is_open or job is None or job.spool is None:
            return None
        return None if job.spool.lengths() == self._told else self._told_at_ns + OUTPUT_PAUSE_NS

    def _stuck_at(self) -> int | None:
        job = self._job
        if job is None or self._is_draining or not job.is_stuck:
            return None
        return self._stuck_at_ns

    def _next_deadline_ns(self) -> int | None:
        job = self._job
        times = [self._record_at_ns, self._output_at_ns(), self._stuck_at()]
        if job is not None:
            times.append(job.next_deadline_ns())
            times.append(job.spool.retry_at_ns if job.spool else None)
        due = [at for at in times if at is not None]
        return min(due) if due else None

    def _on_time(self, now_ns: int) -> None:
        if self._record_at_ns is not None and now_ns >= self._record_at_ns:
            self._record()
        job = self._job
        if job is None:
            return
        output_at_ns = self._output_at_ns()
        if output_at_ns is not None and now_ns >= output_at_ns:
            self._tell_output(job)
        if job.spool is not None and (job.spool.retry_at_ns or now_ns + 1) <= now_ns:
            self._retry_disk(job)
        if self._job is not job:
            return
        if not self._is_draining:
            job.on_time(now_ns)
            if job.is_sweeping or job.outside.next_at_ns is not None:
                self._on_child()  # a killing pass may have reaped by itself
        stuck_at_ns = self._stuck_at()
        if stuck_at_ns is not None and now_ns >= stuck_at_ns:
            self._stuck_at_ns = now_ns + STUCK_REPEAT_NS
            is_outside = job.outside.is_ending
            pids = [] if is_outside else [process.pid for process in job.processes()]
            self._agent.tell({"event": "stuck", "bundle": job.bundle, "pids": pids})

    def _tell_disk_full(self, job: Job) -> None:
        self._agent.tell({"event": "disk_full", "bundle": job.bundle})

    def _retry_disk(self, job: Job) -> None:
        self._tell_disk_full(job)
        if self._is_draining:
            self._drain(job)
        elif job.spool is not None:
            for stream in job.spool.streams:
                if stream.fifo_fd >= 0:
                    job.spool.pump(stream)
            self._watch_streams(job)

    def _on_leave(self) -> None:
        self._is_leaving = True

    def _on_orphaned(self) -> None:
        self._is_orphaned = True


def _sync(fd: int) -> None:
    """Makes a written record durable; after the notice, so that nobody waits for the disk."""
    if fd < 0:
        return
    try:
        os.fdatasync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without sync
            os.write(2, f"exit record not synced: {error}\n".encode())
    os.close(fd)
