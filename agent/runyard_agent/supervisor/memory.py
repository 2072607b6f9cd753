"""What the kernel says of memory: how much processes have, and that it ran out."""

from __future__ import annotations

import os

from runyard_agent.supervisor.watch import Sum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
VMSTAT = "/proc/vmstat"
_FIELD = b"\noom_kill "


def host_kills(path: str = VMSTAT) -> int | None:
    """How many processes the kernel has killed for want of memory since the boot.

    None where it does not say. Of a container's or control group's limit, it counts them, too.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        _, found, rest = os.read(fd, 1 << 16).partition(_FIELD)
        return int(rest.partition(b"\n")[0]) if found else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def sum_of(pids: Iterable[int]) -> Sum:
    """What processes have in memory, those that are gone left out.

    A kernel may keep up to a megabyte for each CPU to itself until it tells of it.
    """
    found, resident, anonymous = set(), 0, 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/statm").split()
        if len(fields) > 2:
            found.add(pid)
            resident += int(fields[1])
            anonymous += int(fields[1]) - int(fields[2])
    return Sum(frozenset(found), resident * PAGE_BYTES, anonymous * PAGE_BYTES)


def used_bytes(pids: Iterable[int]) -> int:
    """What processes have in memory together: of a page that two have, half counts for each.

    Pages of files don't count: the kernel takes them back. Of a process that doesn't let this be
    read (one with rights of its own) counts what neither a file nor shared memory stands behind.
    """
    total = 0
    for pid in pids:
        fields = _fields(_read(f"/proc/{pid}/smaps_rollup"))
        if b"Pss_Anon" in fields:
            total += fields[b"Pss_Anon"] + fields.get(b"Pss_Shmem", 0)
        elif b"Pss" in fields:  # before Linux 5.3
            total += min(fields[b"Pss"], fields.get(b"Anonymous", fields[b"Pss"]))
        else:
            total += sum_of([pid]).anonymous_bytes
    return total


def _fields(text: bytes) -> dict[bytes, int]:
    """The amounts of smaps_rollup in bytes, by name."""
    lines = [line.split() for line in text.splitlines()]
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1:] == [b"kB"]}


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 13)
    except OSError:
        return b""  # it ended after the file was opened
    finally:
        os.close(fd)
