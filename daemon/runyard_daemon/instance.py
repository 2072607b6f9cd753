"""One daemon on one data directory: its lock, its socket, `daemon.json`.

The lock is taken before the socket is bound: a second bind would silently steal it. The rules of
the directory itself are the contract's (`runyard_contract.home`); clients apply the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from runyard_contract.errors import AlreadyRunning, HomeUnusable
from runyard_contract.home import (
    DAEMON_RECORD,
    HOME_VARIABLE,
    LAST_DAEMON_RECORD,
    DaemonRecord,
    check_home,
    prepare_socket_folder,
    socket_path,
)
from runyard_contract.lockfile import written_pid
from runyard_contract.paths import atomic_write

LOCK_NAME = "daemon.lock"


def prepare_home(home: Path) -> None:
    """Makes the data directory where it is missing and proves that it can be written.

    Raises HomeUnusable. Trying to write is the only proof: a read-only mount passes the checks of
    modes and, for root, those of access.
    """
    check_home(home)
    probe = home / f".probe.{os.getpid()}"
    try:
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise HomeUnusable(
            f"{home} can't be written: {error.strerror}",
            hint=f"set {HOME_VARIABLE} to a folder on a local disk that you can write to",
            home=str(home),
        ) from None


def take_lock(home: Path) -> int:
    """Takes the lock of the data directory; it holds until the descriptor closes.

    Raises AlreadyRunning, naming the process that holds it.
    """
    path = home / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise HomeUnusable(
            f"{path} is a symbolic link", hint=f"remove {path}", home=str(home)
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = written_pid(fd)
        os.close(fd)
        raise AlreadyRunning(
            f"a daemon (pid {pid or 'unknown'}) already serves {home}",
            hint="use it, or end it first with `runyard daemon stop`",
            pid=str(pid),
            home=str(home),
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def place_socket(home: Path) -> Path:
    """Where the socket goes, its folder made and checked, a crashed daemon's socket cleared.

    The place is the same at each start, so that an agent finds its way back. Raises HomeUnusable
    where anything but a socket of ours is in the way.
    """
    path = socket_path(home)
    prepare_socket_folder(path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return path
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise HomeUnusable(
            f"{path} is not a socket of this user, so the daemon does not replace it",
            hint=f"find out who put it there, then remove {path}",
            home=str(home),
            path=str(path),
        )
    path.unlink()  # the lock is ours, so whoever bound it is gone
    return path


def announce(record: DaemonRecord) -> None:
    """Writes `daemon.json`, and what stays of it after the end; a reader sees the old or the new.

    What stays comes second: it is read where no daemon lives only.
    """
    for name in (DAEMON_RECORD, LAST_DAEMON_RECORD):
        atomic_write(Path(record.home) / name, record.to_json())


def withdraw(home: Path, socket: Path) -> None:
    """Takes socket and `daemon.json` away: clients see that no daemon serves."""
    for path in (socket, home / DAEMON_RECORD):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    if socket.parent != home:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()
