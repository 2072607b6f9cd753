"""Makes files durable, one by one or a whole file system at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache

# A sync of each file costs about a millisecond; one syncfs costs five and also waits for whatever
# others wrote to the same file system, so a small batch does not use it.
SYNCFS_ABOVE_FILES = 8


@lru_cache(maxsize=1)
def _syncfs() -> Callable[[int], int] | None:
    """The system's syncfs, None where there is none."""
    import ctypes  # costs 3 ms of start-up and is needed by writers only

    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        return None

    def call(fd: int) -> int:
        return 0 if function(ctypes.c_int(fd)) == 0 else ctypes.get_errno()

    return call


def sync_file_system(fd: int) -> bool:
    """Makes all of the file system of `fd` durable. False where the system can't do that.

    Raises OSError where a write failed.
    """
    call = _syncfs()
    if call is None:
        return False
    error = call(fd)
    if error:
        raise OSError(error, os.strerror(error))
    return True


def sync_names(dir_fd: int, names: Iterable[str]) -> None:
    """Makes these files or directories, named from an open directory, durable one by one."""
    for name in names:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
