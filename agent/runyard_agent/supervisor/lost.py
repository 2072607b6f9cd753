"""A run whose slot supervisor has died: its processes ended, its output saved, its end recorded."""

from __future__ import annotations

import os

from runyard_agent.supervisor import cgroup, record, streams, sweep
from runyard_agent.supervisor.clock import boot_ns, unix_ns
from runyard_agent.supervisor.outside import Outside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runyard_agent.supervisor.record import Record

CLEAN_SCANS = 2
"""A listing of /proc is not one instant: that nothing is left is believed the second time."""
PASS_NS = 2_000_000
OUTSIDE_NS = 10_000_000
STUCK_AFTER_NS = 5_000_000_000


class LostRun:
    """Call `step` at `next_at_ns` until `exit` is set."""

    __slots__ = (
        "_attempt",
        "_clean_scans",
        "_fifo_fds",
        "_groups",
        "_main",
        "_orphans",
        "_passes",
        "_run_id",
        "_since_ns",
        "_spool",
        "_state",
        "_storm",
        "bundle",
        "exit",
        "next_at_ns",
        "outside",
        "survivors",
    )

    def __init__(
        self,
        bundle: str,
        fifo_fds: list[int] | None,
        orphans: sweep.Finder,
        storm: Callable[[], None],
    ) -> None:
        """`fifo_fds` come from the stash; without one, None, the FIFOs are opened by name.

        `orphans` gives what has re-parented to us, to be taken as this run's; `storm` kills
        those of them that fork faster than they are looked at.
        """
        self.bundle = bundle
        self.next_at_ns = 0
        self.exit: Record | None = record.read(bundle, record.EXIT)
        self.survivors: list[int] = []
        self._state = record.read(bundle, record.STATE) or {}
        spec = record.read(bundle, record.SPEC) or {}
        self._run_id, self._attempt = str(spec.get("run_id") or ""), spec.get("attempt")
        end_argv = [os.fsencode(str(item)) for item in spec.get("end_argv") or ()]
        self.outside = Outside(bundle, end_argv)
        self._fifo_fds = _open_fifos(bundle) if fifo_fds is None else fifo_fds
        self._orphans = orphans
        self._storm = storm
        self._spool: streams.Spool | None = None
        self._main = self._living_main()
        self._groups = cgroup.left_behind(bundle)
        self._clean_scans = 0
        self._passes = 0
        self._since_ns = boot_ns()

    def _living_main(self) -> tuple[int, int] | None:
        pid, ticks = self._state.get("pid"), self._state.get("start_ticks")
        if self._is_of_another_boot or not isinstance(pid, int) or not isinstance(ticks, int):
            return None
        process = sweep.look_up(pid)
        return (pid, ticks) if process is not None and process.start_ticks == ticks else None

    @property
    def _is_of_another_boot(self) -> bool:
        return bool(self._state.get("boot_id", record.BOOT_ID) != record.BOOT_ID)

    @property
    def is_stuck(self) -> bool:
        """Whether its processes have resisted SIGKILL for seconds, or its container an end."""
        has_survivors = bool(self.survivors) and boot_ns() - self._since_ns > STUCK_AFTER_NS
        return has_survivors or (self.outside.is_stuck and not self.outside.is_gone)

    def step(self) -> None:
        """Kills what is left, here and outside, then saves the output, then records the end."""
        if self.exit is not None:
            self.close()
            return
        self.next_at_ns = boot_ns() + (PASS_NS << min(self._passes, 9))
        if self._clean_scans < CLEAN_SCANS:
            self._passes += 1
            if self._passes > sweep.STUBBORN_PASSES:
                self._storm()
            cgroup.kill(self._groups)
            alive = sweep.kill_all(self._find)
            self.survivors = [process.pid for process in alive]
            self._clean_scans = 0 if alive else self._clean_scans + 1
            if self._clean_scans < CLEAN_SCANS:
                return
        if self.outside.is_running or not self.outside.end():
            self.next_at_ns = boot_ns() + OUTSIDE_NS
            return
        self.next_at_ns = boot_ns() + streams.DISK_RETRY_NS  # should the disk be full
        try:
            self._save()
        except FileNotFoundError:  # the bundle is gone, and with it whoever wanted the record
            self.exit = record.exit_record({}, "supervisor_lost")
            self.close()
        except OSError:
            return  # the disk takes no more: the next step tries again

    def _save(self) -> None:
        if self._spool is None:
            self._spool = streams.Spool(self.bundle, self._fifo_fds, 1)
        if self._groups:
            cgroup.remove(self.bundle, self._groups)
        if self._spool.drain():
            content = self._content(self._spool)
            os.close(record.replace(self.bundle, record.EXIT, content))
            self.exit = content
            self.close()

    def _find(self) -> list[sweep.Process]:
        table = sweep.scan()
        found = {process.pid: process for process in self._orphans(table)}
        if self._run_id and isinstance(self._attempt, int) and not self._is_of_another_boot:
            for process in sweep.marked(table, self._run_id, self._attempt, self._main):
                found[process.pid] = process
        return [process for pid, process in found.items() if pid != os.getpid()]

    def _content(self, spool: streams.Spool) -> Record:
        started = self._state.get("started_at_unix_ns")
        now = unix_ns()
        stdout_bytes, stderr_bytes = spool.lengths()
        why = "the slot's supervisor died while the run was active"
        if self._is_of_another_boot:
            why = "the node was restarted while the run was active"
        spec = record.read(self.bundle, record.SPEC) or {}
        return record.exit_record(
            spec,
            "supervisor_lost",
            stopped_by=None if self._is_of_another_boot else "supervisor_lost",
            started_at_unix_ns=started,
            ended_at_unix_ns=now,
            duration_ns=max(0, now - started) if isinstance(started, int) else 0,
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
            order_bytes=spool.order_bytes,
            error={"errno": 0, "message": why},
        )

    def close(self) -> None:
        """Gives back descriptors; harmless when repeated."""
        if self._spool is not None:
            self._spool.close()
        else:
            for fd in self._fifo_fds:
                os.close(fd)
        self._spool, self._fifo_fds = None, []


def _open_fifos(bundle: str) -> list[int]:
    """The read ends by name: what is in the pipes while a process of the run holds them."""
    fds = []
    for name in streams.NAMES:
        try:
            path = streams.fifo_path(bundle, name)
            fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError:
            break
    return fds
