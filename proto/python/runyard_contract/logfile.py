"""The log file of a process that runs in the background."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOG_MAX_BYTES = 16 << 20


def open_log(path: Path, max_bytes: int = LOG_MAX_BYTES) -> int:
    """Opens a log for appending and gives its descriptor; no link is followed.

    One that has more than `max_bytes` goes first: it becomes `<name>.1` in place of the one before.
    So a log is bounded by what one life of a process writes. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_size > max_bytes:
            os.replace(path, path.with_name(f"{path.name}.1"))
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
