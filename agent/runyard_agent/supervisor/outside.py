"""What a run has outside of its own processes: a container, ended by a command of its own."""

from __future__ import annotations

import os

from runyard_agent.supervisor import record, sweep
from runyard_agent.supervisor.clock import boot_ns
from runyard_agent.supervisor.holding import CONTAINER, HELD
from runyard_agent.supervisor.spawn import NotStarted, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runyard_agent.supervisor.record import Record

PAUSE_NS = 100_000_000
PAUSE_DOUBLINGS = 4
STUCK_AFTER_NS = 5_000_000_000


class Outside:
    """Starts `end_argv` again and again until what the bundle holds outside is let go."""

    __slots__ = ("_argv", "_bundle", "_next_at_ns", "_since_ns", "_tries", "pid")

    def __init__(self, bundle: str, end_argv: list[bytes]) -> None:
        """No `end_argv`: there is nothing outside."""
        self._bundle = bundle
        self._argv = end_argv
        self._tries = 0
        self._since_ns = self._next_at_ns = 0
        self.pid = 0
        """The command that runs now."""

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left outside. The proof is the command's, or the job's own."""
        return not self._argv or not os.path.lexists(f"{self._bundle}/{HELD}")

    @property
    def is_ending(self) -> bool:
        """Whether it has been begun to end it."""
        return self._tries > 0

    @property
    def is_stuck(self) -> bool:
        """Whether that takes longer than a working engine needs."""
        return self.is_ending and boot_ns() - self._since_ns > STUCK_AFTER_NS

    @property
    def next_at_ns(self) -> int | None:
        """When `end` wants to be called next; None while the command runs."""
        return None if self.pid or not self.is_ending else self._next_at_ns

    def end(self) -> bool:
        """Call when no command of this runs: starts one if it is time. True: all is gone."""
        self.pid = 0
        if self.is_gone:
            return True
        now = boot_ns()
        if now < self._next_at_ns:
            return False
        self._since_ns = self._since_ns or now
        self._next_at_ns = now + (PAUSE_NS << min(self._tries, PAUSE_DOUBLINGS))
        self._tries += 1
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.pid = spawn(self._argv, {}, b"/", (null_fd, null_fd, 2))
        except NotStarted as error:
            os.write(2, f"{self._bundle}: its ending can't be started: {error}\n".encode())
        finally:
            os.close(null_fd)
        return False

    @property
    def is_running(self) -> bool:
        """Whether the command runs. For those whose children are reaped by others."""
        process = sweep.look_up(self.pid) if self.pid else None
        return process is not None and process.ppid == os.getpid() and not process.is_zombie

    def result(self) -> Record:
        """How the container ended and what it used, for the exit record."""
        found = record.read(self._bundle, CONTAINER) if self._argv else None
        if found is None:
            return {}
        used = found.get("used")
        values: Record = {"oom": found.get("oom")} | (used if isinstance(used, dict) else {})
        error = found.get("error")
        if isinstance(error, dict):
            values |= {"reason": error.get("reason"), "error": error, "exit_code": None}
        return values
