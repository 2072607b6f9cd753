"""A process that sees no control groups, as in many a container: its mount namespace has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import small_disk

PREFIX = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'umount -R -l /sys/fs/cgroup; exec "$@"',
    "sh",
)
"""Stands before a command: its processes, and what they start, see none."""
_START = (
    "import asyncio, sys; from pathlib import Path; from runyard_agent.slots import Supervisor; "
    "asyncio.run(Supervisor(Path(sys.argv[1])).start())"
)


def lacking() -> str:
    """Why there can be no such process here; empty: there can."""
    return small_disk.lacking()


def start_supervisor(folder: Path) -> None:
    """Starts the supervisor of a node that has none; whoever asks for it later finds it."""
    subprocess.run([*PREFIX, sys.executable, "-c", _START, str(folder)], check=True, timeout=60)


def program(path: Path, command: Path) -> Path:
    """Writes a program that is the command, but sees no control groups."""
    words = " ".join(f"'{word}'" for word in (*PREFIX, str(command)))
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path
