"""A control group of version 1 with a memory limit, to be killed by the kernel in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/memory")


def lacking() -> str:
    """Why there can be none here; empty: there can."""
    if not (ROOT / "memory.limit_in_bytes").exists():
        return "no control groups of version 1 for memory here"
    return "" if os.access(ROOT, os.W_OK) else "the control groups for memory are not writable"


@contextlib.contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[Path]:
    """Makes one while the block runs, and gives the file that takes a process in."""
    group = ROOT / name
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # a kernel that does not count swap
            (group / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
