"""Stretches of tests and commands that run without root's right to read everything."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

_NOBODY = 65534
# Takes CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH out of what the next program can get.
_DROP = (
    "import ctypes, os, sys\n"
    "prctl = ctypes.CDLL(None, use_errno=True).prctl\n"
    "for capability in (1, 2):\n"
    "    if prctl(24, capability, 0, 0, 0):\n"
    "        sys.exit(os.strerror(ctypes.get_errno()))\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


@contextlib.contextmanager
def open_folder() -> Generator[Path, None, None]:
    """A folder that every user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="ry-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def without_root() -> Generator[None, None, None]:
    """Gives up root for the block, where there is any to give up.

    What the block imports should have been imported before.
    """
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def without_overriding_modes(command: Sequence[str | bytes]) -> list[str | bytes]:
    """A command that runs as the same user, but for whom the modes of files hold, root or not."""
    if os.geteuid() != 0:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DROP, *command]
