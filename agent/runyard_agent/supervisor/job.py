"""One run in its slot: started, stopped, swept, drained, recorded."""

from __future__ import annotations

import errno
import os
import signal

from runyard_agent.supervisor import record, streams, sweep
from runyard_agent.supervisor.cgroup import ADVICE, UNKEPT, too_large_here
from runyard_agent.supervisor.clock import boot_ns, unix_ns
from runyard_agent.supervisor.disk import is_disk_full
from runyard_agent.supervisor.limited import Keeper
from runyard_agent.supervisor.memory import host_kills
from runyard_agent.supervisor.outside import Outside
from runyard_agent.supervisor.spawn import NotStarted, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runyard_agent.supervisor.cgroup import Limits
    from runyard_agent.supervisor.record import Record, Spec
    from runyard_agent.supervisor.stash import Stash

SECOND_NS = 1_000_000_000
FIRST_SWEEP_NS = 2_000_000
"""After the first killing pass; the pause doubles up to a second."""
STUCK_AFTER_NS = 5 * SECOND_NS
_START_TIMES = sweep.StartTimes()


class Job:
    """A run that this supervisor has claimed. Its processes are our only descendants."""

    __slots__ = (
        "_host_kills",
        "_is_disk_full",
        "_is_noted",
        "_is_over_limit",
        "_keeper",
        "_kill_at_ns",
        "_max_rss_bytes",
        "_mechanism",
        "_passes",
        "_slot",
        "_spawned_boot_ns",
        "_started_boot_ns",
        "_state_fd",
        "_stop_at_ns",
        "_sweep_at_ns",
        "_swept_since_ns",
        "_system_cpu_s",
        "_user_cpu_s",
        "bundle",
        "duration_ns",
        "ended_at_unix_ns",
        "error",
        "outside",
        "pid",
        "spec",
        "spool",
        "started_at_unix_ns",
        "status",
        "stopped_by",
    )

    def __init__(self, bundle: str, spec: Spec, slot: int) -> None:
        """Claims the bundle; FileExistsError where the attempt was executed before."""
        self.bundle = bundle
        self._slot = slot
        self.spec = spec
        self.started_at_unix_ns = unix_ns()
        self._started_boot_ns = boot_ns()
        content = record.state("spawning", self.started_at_unix_ns, None, None)
        self._state_fd = record.claim(bundle, content)
        self._is_noted = False
        self.outside = Outside(bundle, spec.end_argv)
        self.pid = 0
        self._spawned_boot_ns = (0, 0)
        self.spool: streams.Spool | None = None
        self.status: int | None = None
        self.error: NotStarted | None = None
        self.stopped_by: str | None = None
        self.ended_at_unix_ns = 0
        self.duration_ns = 0
        self._stop_at_ns: int | None = None
        self._kill_at_ns: int | None = None
        self._sweep_at_ns: int | None = None
        self._swept_since_ns = 0
        self._passes = 0
        self._user_cpu_s = self._system_cpu_s = 0.0
        self._max_rss_bytes = 0
        self._host_kills: int | None = None
        self._keeper: Keeper | None = None
        self._mechanism: str | None = None
        self._is_over_limit = False
        self._is_disk_full: bool | None = None

    def start(self, stash: Stash, null_fd: int) -> None:
        """Spawns the main process; on failure sets `error` and has ended at once."""
        try:
            fifo_fds = streams.make_fifos(self.bundle, self.spec.merge_stderr)
            stash.put(self.bundle, fifo_fds)
            self.spool = streams.Spool(self.bundle, fifo_fds, self.spec.spool_bound_bytes)
            self._host_kills = host_kills()
            before_ns = boot_ns()
            self.pid = self._spawn(null_fd)
            self._spawned_boot_ns = before_ns, boot_ns()
        except NotStarted as error:
            self.error = error
            self._note_end()
            return
        except OSError as error:
            self.error = NotStarted(error.errno or 0, f"{error.filename}: {error.strerror}")
            self._note_end()
            return
        if self.spec.max_duration_s is not None:
            self._stop_at_ns = self._started_boot_ns + int(self.spec.max_duration_s * SECOND_NS)

    def note_running(self) -> None:
        """Writes the running phase to state.json, once; harmless when repeated.

        Not part of `start`: the kernel answers for a process only when its exec is complete,
        a millisecond after the spawn, which others would wait for.
        """
        if self._is_noted or self.has_ended:
            return
        self._is_noted = True
        ticks = _START_TIMES.of(self.pid, *self._spawned_boot_ns)
        content = record.state("running", self.started_at_unix_ns, self.pid, ticks)
        try:
            record.overwrite(self._state_fd, content)
        except OSError:
            pass  # a full disk: "spawning" stays, the run is found by its environment then

    def _spawn(self, null_fd: int) -> int:
        writers: list[int] = []
        groups: list[int] = []
        try:
            for name in streams.NAMES[: 1 if self.spec.merge_stderr else 2]:
                path = streams.fifo_path(self.bundle, name)
                writers.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
            stdio = (null_fd, writers[0], writers[-1])
            cpus: frozenset[int] = frozenset()
            if self.spec.limits is not None:
                self._keeper = self._keep(self.spec.limits)
                groups, cpus = self._keeper.open(), self._keeper.cpus
            return spawn(self.spec.argv, self.spec.env, self.spec.cwd, stdio, groups, cpus)
        finally:
            for fd in writers + groups:
                os.close(fd)

    def _keep(self, limits: Limits) -> Keeper:
        if why := too_large_here(limits):
            refused = NotStarted(errno.ENOTSUP, UNKEPT + why)
            refused.advice = ADVICE
            raise refused
        spec = self.spec
        name = f"runyard-{spec.run_id}.{spec.attempt}.{spec.epoch}".replace("/", "_")
        return Keeper(self.bundle, name, limits, self._slot)

    @property
    def has_ended(self) -> bool:
        """Whether the main process has ended or never started."""
        return self.duration_ns > 0

    @property
    def phase(self) -> str:
        """`running` or, once it is being ended for any reason, `stopping`."""
        return "stopping" if self.stopped_by or self.has_ended else "running"

    @property
    def is_stuck(self) -> bool:
        """Whether its processes have resisted SIGKILL for seconds, or its container an end."""
        if self.outside.is_ending:
            return self.outside.is_stuck
        return self._passes > 0 and boot_ns() - self._swept_since_ns > STUCK_AFTER_NS

    def stop(self, by: str, grace_s: float) -> None:
        """SIGTERM to all processes, SIGKILL after the grace period; a repeat only shortens it."""
        kill_at_ns = boot_ns() + int(grace_s * SECOND_NS)
        if self.stopped_by is None:
            self.stopped_by = by
            self._stop_at_ns = None
            if grace_s > 0 and not self.has_ended:
                sweep.signal_all(self.processes, signal.SIGTERM)
                sweep.signal_all(self._stopped_processes, signal.SIGCONT)
        self._kill_at_ns = min(self._kill_at_ns or kill_at_ns, kill_at_ns)

    def processes(self) -> list[sweep.Process]:
        """All living processes of the run: whatever descends from this supervisor."""
        return sweep.descendants([os.getpid()], sweep.scan())

    def _stopped_processes(self) -> list[sweep.Process]:
        return [process for process in self.processes() if process.is_stopped]

    def reap(self) -> bool:
        """Reaps what has ended and notes what it used; True: no process of the run is left.

        Whatever a process leaves behind becomes our child, so having none is the proof.
        """
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._user_cpu_s += usage.ru_utime
            self._system_cpu_s += usage.ru_stime
            self._max_rss_bytes = max(self._max_rss_bytes, usage.ru_maxrss * 1024)
            if pid == self.pid:
                self.status = status
                self._is_disk_full = is_disk_full(self.bundle) if status else None
                self._note_end()

    def _note_end(self) -> None:
        self.ended_at_unix_ns = unix_ns()
        self.duration_ns = max(1, boot_ns() - self._started_boot_ns)
        self._stop_at_ns = None

    def sweep(self) -> None:
        """One pass of SIGKILL over all that is left, and the time of the next pass."""
        now = boot_ns()
        if self._passes == 0:
            self._swept_since_ns = now
        if self._passes >= sweep.STUBBORN_PASSES:
            sweep.storm(self.reap, frozenset)
        if self._keeper is not None:
            self._keeper.kill()
        sweep.kill_all(self.processes)
        self._sweep_at_ns = now + min(FIRST_SWEEP_NS << min(self._passes, 9), SECOND_NS)
        self._passes += 1

    @property
    def is_sweeping(self) -> bool:
        """Whether a killing pass has been made, so that the next one has its time."""
        return self._passes > 0

    def next_deadline_ns(self) -> int | None:
        """When `on_time` wants to be called next."""
        if self.outside.is_ending:
            return self.outside.next_at_ns
        times = [self._sweep_at_ns]
        if not self.is_sweeping:
            times = [self._stop_at_ns, self._kill_at_ns, self._look_at_ns]
        due = [at for at in times if at is not None]
        return min(due) if due else None

    @property
    def _look_at_ns(self) -> int | None:
        """When its limits want to be looked after."""
        return self._keeper.next_at_ns if self._keeper is not None else None

    def on_time(self, now_ns: int) -> None:
        """Does what is due: the time limit, the end of the grace period, the next pass."""
        if self.outside.is_ending:  # all its processes are gone
            return
        if self._stop_at_ns is not None and now_ns >= self._stop_at_ns:
            self.stop("timeout", self.spec.grace_s)
        if not self.is_sweeping and self._keeper is not None and self._keeper.is_over(now_ns):
            self._kill_at_ns = now_ns
        deadline = self._sweep_at_ns if self.is_sweeping else self._kill_at_ns
        if deadline is not None and now_ns >= deadline:
            self.sweep()

    def exit_record(self) -> Record:
        """The content of exit.json; call it when the run's output is complete."""
        self._leave_limits()
        if self.error is not None:
            reason, code, signum = "spawn_failed", None, None
        else:
            result = os.waitstatus_to_exitcode(self.status or 0)
            reason = "exited" if result >= 0 else "signaled"
            code, signum = (result, None) if result >= 0 else (None, -result)
        spool = self.spool
        lengths = spool.lengths() if spool else (0, 0)
        values: Record = {
            "reason": reason,
            "exit_code": code,
            "error": self.error and _told(self.error),
            "limits": self._mechanism,
            "disk_full": self._is_disk_full,
        }
        if not self.spec.end_argv:  # of a container, what its client used says nothing
            values["user_cpu_s"] = round(self._user_cpu_s, 6)
            values["system_cpu_s"] = round(self._system_cpu_s, 6)
            values["max_rss_bytes"] = self._max_rss_bytes
        values |= self.outside.result()
        values["oom"] = values.get("oom") or self._out_of_memory(signum)
        return record.exit_record(
            self.spec.identity,
            **values,
            signal=signum,
            stopped_by=self.stopped_by,
            started_at_unix_ns=self.started_at_unix_ns,
            first_output_at_unix_ns=spool.first_output_at_unix_ns if spool else None,
            ended_at_unix_ns=self.ended_at_unix_ns,
            duration_ns=self.duration_ns,
            stdout_bytes=lengths[0],
            stderr_bytes=lengths[1],
            order_bytes=spool.order_bytes if spool else 0,
        )

    def _leave_limits(self) -> None:
        """Removes control groups, once nothing of the run is left, before its end is recorded:
        after that nobody would look for them."""
        if self._keeper is not None:
            self._mechanism = self._keeper.mechanism
            self._is_over_limit = self._keeper.close()
            self._keeper = None

    def _out_of_memory(self, signum: int | None) -> str | None:
        """Whose memory was short: the run's limit, or the host's.

        The host's where the main process was killed, by none of us, and the kernel killed some
        while it ran.
        """
        if self._is_over_limit:
            return "limit"
        if signum != signal.SIGKILL or self.stopped_by or self._host_kills is None:
            return None
        return "host" if (host_kills() or 0) > self._host_kills else None

    def close(self, stash: Stash) -> None:
        """Gives back descriptors.

        The FIFOs stay until the agent removes the bundle: on an ext4 without a journal each
        deletion makes the creation of files dearer for a minute, up to milliseconds in a flood.
        """
        os.close(self._state_fd)
        stash.remove(self.bundle)
        if self.spool is not None:
            self.spool.close()
            self.spool = None


def _told(error: NotStarted) -> Record:
    """Why the program could not be started, for the exit record."""
    told: Record = {"errno": error.errno, "message": error.strerror}
    return told | {"advice": error.advice} if error.advice else told
