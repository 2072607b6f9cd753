"""Files that one process of ours holds by flock, and writes its process id into."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_holder(path: Path) -> int | None:
    """The process that holds a lock file by flock (0: it did not say), None where nobody does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return written_pid(fd)
    finally:
        os.close(fd)
    return None


def written_pid(fd: int) -> int:
    """The process id in a lock file; 0: there is none."""
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0
