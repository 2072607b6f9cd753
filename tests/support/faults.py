"""Counts, records and breaks what a process does to its files, and shifts its wall clock.

`faults.c`, compiled here and put in front of the C library with LD_PRELOAD, so that the product has
no hook for tests. It counts every durable step (bytes, syncs, names, sizes) of the process below
one folder, over all its threads, and acts at the one it was told.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import shutil
import subprocess
import tempfile
from enum import IntEnum, IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
_PATH_BYTES = 1024


class Kind(IntFlag):
    """What a step does."""

    WRITE = 1
    SYNC = 2
    NAME = 4
    SIZE = 8
    ALL = 15


class Action(IntEnum):
    """What happens at the chosen step."""

    NONE = 0
    KILL = 1
    """SIGKILL before it."""
    KILL_TORN = 2
    """SIGKILL after half of a write; as KILL where it is none."""
    FAIL_ONCE = 3
    FAIL_FROM = 4
    """It and all after it fail."""


class _Control(ctypes.Structure):
    """`struct control` of faults.c."""

    _fields_ = (
        ("root", ctypes.c_char * _PATH_BYTES),
        ("record", ctypes.c_char * _PATH_BYTES),
        ("calls", ctypes.c_uint64),
        ("at", ctypes.c_uint64),
        ("kinds", ctypes.c_uint32),
        ("action", ctypes.c_uint32),
        ("error", ctypes.c_uint32),
        ("sync_delay_us", ctypes.c_uint32),
        ("wall_offset_s", ctypes.c_int64),
    )


def lacking() -> str:
    """Why faults can't be injected here; empty: they can."""
    if not Path("/proc/self/fd").is_dir():
        return "no /proc: files can't be told apart"
    return "" if shutil.which("cc") else "no C compiler (cc)"


@functools.cache
def _library() -> Path:
    """The compiled library, made once a process and removed at its end."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="ry-faults-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread"]
    subprocess.run([*command, "-o", str(path), str(SOURCE), "-ldl"], check=True)
    return path


class Faults:
    """What processes started with `environment` are to meet below `root`, which need not exist yet.

    Args:
        folder: for the control file; not below `root`.
        root: with no link in its path.
        record: a file in which to record what is done (see `support.diskrecord`).
    """

    def __init__(self, folder: Path, root: Path, record: Path | None = None) -> None:
        path = folder / "faults.control"
        path.write_bytes(bytes(ctypes.sizeof(_Control)))
        if record is not None:
            record.touch()
        with path.open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self._control.root = str(root).encode()
        self._control.record = str(record or "").encode()
        self.environment = {"LD_PRELOAD": str(_library()), "FAULTS_CONTROL": str(path)}
        """For a process that is counted; its children are not."""
        self.calm()

    @property
    def steps(self) -> int:
        """Steps since the last `arm` or `calm`, over all processes."""
        return int(self._control.calls)

    def arm(self, action: Action, at: int, *, error: int = 0, kinds: Kind = Kind.ALL) -> None:
        """Counts from 0 again; at the step `at` (from 1) of these kinds the action is taken."""
        self._control.action = Action.NONE
        self._control.calls = 0
        self._control.at = at
        self._control.error = error
        self._control.kinds = kinds
        self._control.action = action

    def calm(self) -> None:
        """Lets all go on, and counts from 0 again."""
        self.arm(Action.NONE, 0)

    def delay_syncs(self, delay_us: int) -> None:
        """Makes each sync that much slower: what is acknowledged before it comes to light."""
        self._control.sync_delay_us = delay_us

    def shift_clock(self, offset_s: int) -> None:
        """Sets the wall clock that Python code reads so far off."""
        self._control.wall_offset_s = offset_s
