"""What keeps the limits of one run: control groups, and watching where there can be none."""

from __future__ import annotations

import os
import time

from runyard_agent.supervisor import sweep
from runyard_agent.supervisor.cgroup import Group, Limits, NoGroups
from runyard_agent.supervisor.clock import boot_ns
from runyard_agent.supervisor.memory import sum_of, used_bytes
from runyard_agent.supervisor.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

KILLS_NS = 250_000_000
"""How often a group is asked whether the kernel has killed in it: it tells nobody."""


class Keeper:
    """Keeps them from the making on; `close` when nothing of the run is left.

    Each limit has a control group where one can be made. Else memory is watched, and the number
    of CPUs bounded by the affinity of the run's processes, which a process may change itself:
    its limit counts in whole CPUs then. Libraries that ask for their number see the right one, so
    no variable of theirs is set. No rlimit is: those count addresses, of which GPU drivers and
    thread stacks reserve far more than they use, and count them for each process apart.
    """

    __slots__ = ("_group", "_is_over", "_kills_at_ns", "_watch", "cpus", "mechanism")

    def __init__(self, bundle: str, name: str, limits: Limits, turn: int) -> None:
        """`turn`: of runs with different ones, each gets other CPUs, as far as there are enough."""
        self._group, why = _make_group(bundle, name, limits)
        kept = self._group.controllers if self._group is not None else []
        self._is_over = False
        self._kills_at_ns = boot_ns() + KILLS_NS if "memory" in kept else None
        self._watch: Watch | None = None
        self.cpus: frozenset[int] = frozenset()
        """Where its processes may run; empty: everywhere."""
        if limits.memory_bytes and "memory" not in kept:
            self._watch = Watch(limits.memory_bytes, boot_ns())
        if limits.cpu_millicores and "cpu" not in kept:
            self.cpus = choose_cpus(os.sched_getaffinity(0), limits.cpu_millicores, turn)
        version = self._group.mechanism if self._group is not None else ""
        self.mechanism = described(limits, kept, version, why)
        """What keeps the limits, for people."""

    def open(self) -> list[int]:
        """Descriptors through which a process joins the groups, by writing 0."""
        return self._group.open() if self._group is not None else []

    @property
    def next_at_ns(self) -> int | None:
        """When `is_over` wants to be asked next; None: not for its own sake."""
        return self._watch.next_at_ns if self._watch is not None else self._kills_at_ns

    def is_over(self, now_ns: int) -> bool:
        """Looks, if it is time. True: the run is over its memory limit and is to be ended, whole:
        of a group the kernel may have killed one process only, for which others wait."""
        next_at_ns = self.next_at_ns
        if next_at_ns is not None and now_ns >= next_at_ns:
            if self._watch is not None:
                self._is_over = self._is_over or _is_over(self._watch)
            elif self._group is not None:
                self._kills_at_ns = now_ns + KILLS_NS
                self._is_over = self._group.has_killed()
        return self._is_over

    def kill(self) -> None:
        """Kills all that is in its groups in one step, where the kernel can."""
        if self._group is not None:
            self._group.kill()

    def close(self) -> bool:
        """Removes the groups. True: the run was over its memory limit."""
        if self._group is not None:
            self._is_over = self._is_over or self._group.has_killed()
            self._group.remove()
            self._group = None
        return self._is_over


def _make_group(bundle: str, name: str, limits: Limits) -> tuple[Group | None, str]:
    """Groups for as many of the limits as can be, and why not for all."""
    why = ""
    apart = [Limits(limits.cpu_millicores, 0), Limits(0, limits.memory_bytes)]
    for wanted in [limits, *apart] if len(limits.controllers) > 1 else [limits]:
        try:
            return Group(bundle, name, wanted), why
        except NoGroups as error:
            why = why or error.strerror or ""
    return None, why


def choose_cpus(allowed: Collection[int], cpu_millicores: int, turn: int) -> frozenset[int]:
    """So many of the CPUs that the limit fits in; those of the next turn come after them."""
    count = min(len(allowed), -(-cpu_millicores // 1000))
    ordered = sorted(allowed) * 2
    first = turn * count % len(allowed)
    return frozenset(ordered[first : first + count])


def described(limits: Limits, kept: Collection[str], version: str, why: str) -> str:
    """What keeps which limit, as the run's record says it."""
    if set(limits.controllers) <= set(kept):
        return version
    ways = dict.fromkeys(kept, version)
    if limits.memory_bytes and "memory" not in kept:
        ways["memory"] = "watched"
    if limits.cpu_millicores and "cpu" not in kept:
        cores = -(-limits.cpu_millicores // 1000)
        ways["cpu"] = f"affinity to {cores} CPU{'s' if cores > 1 else ''}"
        if cores * 1000 != limits.cpu_millicores:
            ways["cpu"] += f", rounded up from {limits.cpu_millicores / 1000:g}"
    told = "; ".join(f"{name}: {ways[name]}" for name in ("memory", "cpu") if name in ways)
    return f"{told} ({why})" if why else told


def _is_over(watch: Watch) -> bool:
    began_ns = time.thread_time_ns()
    found = sum_of(sweep.pids_below(os.getpid()))
    looked_ns = time.thread_time_ns()
    if not watch.look(boot_ns(), found, looked_ns - began_ns):
        return False
    used = used_bytes(found.pids)
    return watch.measure(boot_ns(), used, time.thread_time_ns() - looked_ns)
