"""A stretch of a test that runs without root's right to read everything."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

_NOBODY = 65534


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
