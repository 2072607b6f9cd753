"""The slot supervisors as their warm parent has them: forked, adopted, found dead."""

from __future__ import annotations

import os
import signal
import socket
import sys

from runyard_agent.supervisor import record, sweep, wire
from runyard_agent.supervisor.lost import LostRun
from runyard_agent.supervisor.reactor import READ, Reactor
from runyard_agent.supervisor.slot import ORPHANED, SLOT_SIGNALS, Slot
from runyard_agent.supervisor.stash import Stash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINK_ANSWER_S = 2.0


class Child:
    """A slot's supervisor; `link` is set where another parent, now dead, has forked it."""

    __slots__ = ("link", "pid", "stash")

    def __init__(self, pid: int, stash: Stash, link: socket.socket | None) -> None:
        self.pid = pid
        self.stash = stash
        self.link = link


class Children:
    """All slot supervisors of the node, and the runs that dead ones have left behind."""

    def __init__(
        self,
        sockets: str,
        reactor: Reactor,
        prctl: Callable[..., int],
        close_owner: Callable[[], None],
    ) -> None:
        """`close_owner` closes, in a forked child, what the owner of this object has open."""
        self._sockets = sockets
        self._reactor = reactor
        self._prctl = prctl
        self._close_owner = close_owner
        self._by_slot: dict[int, Child] = {}
        self.lost: dict[str, LostRun] = {}
        self._lost_of_slot: dict[int, list[LostRun]] = {}
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        reactor.on_signal(signal.SIGCHLD, self._on_child)

    def path(self, number: int, kind: str) -> str:
        """Where a socket of a slot lies: kind `sock` for the agent, `link` for a parent."""
        return os.path.join(self._sockets, f"slot-{number}.{kind}")

    def pids(self) -> dict[int, int]:
        """The process of each slot that has a supervisor."""
        return {number: child.pid for number, child in self._by_slot.items()}

    def losses(self, number: int) -> list[LostRun]:
        """The lost runs of a slot that are not recorded yet: it may not run another before."""
        return [run for run in self._lost_of_slot.get(number, ()) if run.exit is None]

    def is_living(self, number: int) -> bool:
        """Whether the slot has a supervisor that accepts; notes the death of one that doesn't."""
        child = self._by_slot.get(number)
        if child is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path(number, "link"))
            except BlockingIOError:
                return True  # busy: others wait to be accepted
            except OSError:
                if child.link is None:
                    os.waitpid(child.pid, 0)  # its sockets are closed: it is about to be gone
                self._note_death(number)
                return False
        return True

    def fork(self, number: int) -> None:
        """Forks the supervisor of a slot that has none; OSError when the node is out of means."""
        listener = wire.listen(self.path(number, "sock"))
        link = wire.listen(self.path(number, "link"))
        stash = Stash.create()
        parent_pid = os.getpid()
        # The child hears no signal before it can act on it: a SIGTERM would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, SLOT_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_slot(number, listener, link, stash, parent_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SLOT_SIGNALS)
        listener.close()
        link.close()
        stash.close_inlet()
        self._by_slot[number] = Child(pid, stash, None)

    def _become_slot(
        self,
        number: int,
        listener: socket.socket,
        link: socket.socket,
        stash: Stash,
        parent_pid: int,
    ) -> None:
        code = 70
        try:
            # An inherited SIGCHLD handler would steal the exit status of a quick job.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            self._prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._prctl(PR_SET_PDEATHSIG, ORPHANED, 0, 0, 0)
            if os.getppid() != parent_pid:  # it died before we asked to be told
                os.kill(os.getpid(), ORPHANED)
            self._close_inherited()
            Slot(number, listener, link, stash).run()
            code = 0
        except BaseException:  # the edge of the process: the log gets it, the parent the code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _close_inherited(self) -> None:
        self._reactor.close()
        self._close_owner()
        for child in self._by_slot.values():
            child.stash.close()
            if child.link is not None:
                child.link.close()
        for lost in self.lost.values():
            lost.close()

    def adopt(self) -> None:
        """Takes over the supervisors that have outlived the parent before this one."""
        for name in os.listdir(self._sockets):
            stem, _, kind = name.partition(".")
            if kind == "link" and stem.startswith("slot-") and stem[5:].isdigit():
                self._adopt_slot(int(stem[5:]))

    def _adopt_slot(self, number: int) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(LINK_ANSWER_S)
        try:
            link.connect(self.path(number, "link"))
            line, fds, _, _ = socket.recv_fds(link, 64, 1, socket.MSG_CMSG_CLOEXEC)
            pid, outlet = int(line), socket.socket(fileno=fds[0])
        except (OSError, ValueError, IndexError):
            link.close()  # dead: its sockets are replaced when the slot is asked for
            return
        self._by_slot[number] = Child(pid, Stash(None, outlet), link)
        self._reactor.watch(link.fileno(), READ, lambda events: self._note_death(number))

    def _on_child(self) -> None:
        """Reaps supervisors that have ended, and orphans of dead ones."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for number, child in list(self._by_slot.items()):
                if child.pid == pid and child.link is None:
                    self._note_death(number)

    def _note_death(self, number: int) -> None:
        child = self._by_slot.pop(number)
        if child.link is not None:
            self._reactor.forget(child.link.fileno())
            child.link.close()
        for bundle, fds in child.stash.take_all():
            if record.is_taken(bundle):
                self._lost_of_slot.setdefault(number, []).append(self.lose(bundle, fds))
            else:  # queued, never started
                for fd in fds:
                    os.close(fd)
        child.stash.close()

    def lose(self, bundle: str, fifo_fds: list[int] | None) -> LostRun:
        """Begins to end and record a run that no living supervisor has."""
        lost = self.lost.get(bundle)
        if lost is None:
            lost = self.lost[bundle] = LostRun(bundle, fifo_fds, self._orphans, self._storm)
        return lost

    def _orphans(self, table: sweep.Table) -> list[sweep.Process]:
        """What has re-parented to us: processes of runs whose supervisor has died."""
        return sweep.descendants([os.getpid()], table, without=self._living())

    def _storm(self) -> None:
        sweep.storm(self._on_child, self._living)

    def _living(self) -> frozenset[int]:
        slots = frozenset(child.pid for child in self._by_slot.values())
        return slots | {lost.outside.pid for lost in self.lost.values() if lost.outside.pid}

    def next_deadline_ns(self) -> int | None:
        """When `step_lost` wants to be called next."""
        return min((lost.next_at_ns for lost in self.lost.values()), default=None)

    def step_lost(self, now_ns: int) -> None:
        """Goes on with the lost runs that are due and drops those that are recorded."""
        for lost in list(self.lost.values()):
            if now_ns >= lost.next_at_ns:
                lost.step()
            if lost.exit is not None:
                del self.lost[lost.bundle]
        for number in list(self._lost_of_slot):
            if not self.losses(number):
                del self._lost_of_slot[number]
