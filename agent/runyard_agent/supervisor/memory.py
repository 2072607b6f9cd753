"""What the kernel says of memory that ran out."""

from __future__ import annotations

import os

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
