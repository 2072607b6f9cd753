"""The processes of a run: found in /proc by descent or by mark, signalled without mistakes."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    Table = dict[int, "Process"]
    Finder = Callable[[Table], list["Process"]]

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""The unit of start times in /proc."""
SIGNAL_ROUNDS = 10
STORM_ROUNDS = 1000
STUBBORN_PASSES = 3
"""After so many passes that have left something alive, `storm` is worth its CPU time."""
_open_pidfd: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
_send_by_pidfd: Callable[[int, int], None] | None = getattr(signal, "pidfd_send_signal", None)


class Process:
    """One line of the process table; (pid, start_ticks) names a process for all time."""

    __slots__ = ("is_stopped", "is_zombie", "pgid", "pid", "ppid", "sid", "start_ticks")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat.rpartition(b")")[2].split()  # the name before it may hold anything
        self.pid = pid
        self.is_zombie = fields[0] in b"ZX"
        self.is_stopped = fields[0] in b"Tt"
        self.ppid = int(fields[1])
        self.pgid = int(fields[2])
        self.sid = int(fields[3])
        self.start_ticks = int(fields[19])


def look_up(pid: int) -> Process | None:
    """The process that has this pid now, zombies included."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return Process(pid, os.read(fd, 4096))
    except OSError:
        return None  # it ended after the file was opened
    finally:
        os.close(fd)


class StartTimes:
    """When children of ours have started, in the ticks of /proc, which mostly needn't be asked.

    A process that was made within one tick of the boot clock has started in that tick. Where the
    first one shows that /proc counts in another way, it is asked each time.
    """

    __slots__ = ("_is_same",)

    def __init__(self) -> None:
        self._is_same: bool | None = None

    def of(self, pid: int, before_ns: int, after_ns: int) -> int | None:
        """The start of a child that was spawned between the two; None where it is gone already."""
        ticks = before_ns // TICK_NS
        is_one_tick = ticks == after_ns // TICK_NS
        if is_one_tick and self._is_same:
            return ticks
        process = look_up(pid)
        if process is None:
            return None
        if is_one_tick and self._is_same is None:
            self._is_same = process.start_ticks == ticks
        return process.start_ticks


def scan() -> Table:
    """All processes of the machine that are visible here, by pid."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = look_up(int(name))
            if process is not None:
                table[process.pid] = process
    return table


def descendants(
    roots: Iterable[int], table: Table, without: frozenset[int] = frozenset()
) -> list[Process]:
    """Living processes below the roots; subtrees of `without` are left out."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.ppid, []).append(process)
    found = []
    todo = list(roots)
    seen = set(todo) | without
    while todo:
        for child in children.get(todo.pop(), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                todo.append(child.pid)
                if not child.is_zombie:
                    found.append(child)
    return found


def pids_below(root: int) -> list[int]:
    """The processes that descend from `root`, zombies included, at a cost that only they make.

    From the kernel's lists of children, which miss one that comes or goes meanwhile: good for
    looking, not for proof. Of a kernel without these lists, from all processes of the machine.
    """
    found = []
    todo = [root]
    while todo:
        pid = todo.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue  # gone
        for thread in threads:
            try:
                fd = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                if pid == root:
                    return [process.pid for process in descendants([root], scan())]
                continue
            try:
                children = list(map(int, os.read(fd, 1 << 20).split()))
            except OSError:
                children = []
            finally:
                os.close(fd)
            found += children
            todo += children
    return found


def marked(table: Table, run_id: str, attempt: int, main: tuple[int, int] | None) -> list[Process]:
    """Living processes that belong to an attempt by their environment, session or main process.

    For runs whose processes no longer descend from us. `main` is (pid, start_ticks) of a main
    process that was alive when the search began: the number of its session is no other's then.
    """
    marks = {f"RUNYARD_RUN_ID={run_id}".encode(), f"RUNYARD_ATTEMPT={attempt}".encode()}
    found = set()
    for process in table.values():
        if main is not None and process.sid == main[0] and process.start_ticks >= main[1]:
            found.add(process.pid)
        elif run_id and marks <= _environ(process.pid):
            found.add(process.pid)
    below = descendants(found, table)
    return below + [table[pid] for pid in found if not table[pid].is_zombie]


def _environ(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except OSError:
        return set()  # not ours, or gone


def send(process: Process, signum: int) -> None:
    """Signals exactly this process: not one that got its pid later, never init or ourselves."""
    if process.pid <= 1 or process.pid == os.getpid():
        return
    fd = -1
    try:
        if _open_pidfd is not None:
            fd = _open_pidfd(process.pid)
        now = look_up(process.pid)
        if now is None or now.start_ticks != process.start_ticks:
            return
        if fd >= 0 and _send_by_pidfd is not None:
            _send_by_pidfd(fd, signum)
        else:
            os.kill(process.pid, signum)
    except OSError:
        return  # gone, or no longer ours to signal: the proof at the end of the sweep tells
    finally:
        if fd >= 0:
            os.close(fd)


def signal_all(find: Callable[[], list[Process]], signum: int) -> int:
    """Signals every process that `find` gives, once each, until it gives no new one.

    A process may fork while it is being signalled; the rounds are bounded all the same.
    Returns how many were signalled.
    """
    seen: set[tuple[int, int]] = set()
    for _ in range(SIGNAL_ROUNDS):
        fresh = [p for p in find() if (p.pid, p.start_ticks) not in seen]
        if not fresh:
            break
        for process in fresh:
            seen.add((process.pid, process.start_ticks))
            send(process, signum)
    return len(seen)


def kill_all(find: Callable[[], list[Process]]) -> list[Process]:
    """One pass of SIGKILL; returns what was alive when it began (none: nothing is left)."""
    alive = find()
    for process in alive:
        if process.ppid == os.getpid():
            _kill_group(process.pid, process.pgid)
        send(process, signal.SIGKILL)
    return alive


def storm(reap: Callable[[], object], spare: Callable[[], Container[int]]) -> None:
    """Kills our own children faster than they can hand over to new ones; bounded in time.

    For jobs whose processes fork and end between two looks at /proc. Their children become
    ours, and the kernel lists those in microseconds. No number in that list can be reused
    before `reap` is called. `spare` gives children that stay.
    """
    for _ in range(STORM_ROUNDS):
        reap()
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb", 0) as file:
                spared = spare()
                pids = [pid for pid in map(int, file.read().split()) if pid not in spared]
        except OSError:  # a kernel without this list
            return
        if not pids:
            return
        for pid in pids:
            try:
                group = os.getpgid(pid)
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
            _kill_group(pid, group)


def _kill_group(pid: int, pgid: int) -> None:
    """Kills the group of our own child `pid`, in one step that a fork can't slip through.

    Only of a child: until we reap it, nobody else can get the number of its group.
    """
    if pid <= 1 or pgid <= 1 or pgid == os.getpgrp():
        return
    try:
        os.killpg(pgid, signal.SIGKILL)
    except OSError:
        return  # the group is gone
