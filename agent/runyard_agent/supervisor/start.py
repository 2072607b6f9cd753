"""The start of the warm parent: detached from whoever starts it, one for each socket folder.

`python -I -S -X utf8 -c "import sys; sys.path.append(sys.argv[1]); from
runyard_agent.supervisor.start import main; main()" FOLDER runyard-supervisor SOCKETS LOG`, where
FOLDER holds the package (appended: nothing in it may shadow the standard library).

The process that was started ends when the parent serves (exit code 0), when another one already
does (75) or when it could not (70, the reason is in the log): whoever starts it waits for that.
The parent itself has init, or the nearest subreaper, as its parent.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource  # noqa: F401  os.wait4 imports it at first use; the forks shall share it
import signal
import sys

from runyard_agent.supervisor.parent import Parent

EXIT_ALREADY_SERVED = 75
EXIT_FAILED = 70
LOCK = "parent.lock"
START_LOCK = "start.lock"


def main() -> None:
    """Never returns; `sys.argv` ends with the folder of the sockets and the log file."""
    sockets, log = sys.argv[-2:]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        answer = os.read(reader, 1)
        os._exit(answer[0] if answer else EXIT_FAILED)
    os.close(reader)
    code = EXIT_FAILED
    try:
        os.setsid()
        os.chdir("/")
        for signum in (signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        _open_standard_streams(log)
        # One start at a time: who finds the parent's lock taken finds its socket bound, too.
        start_fd = _open_lock(sockets, START_LOCK)
        fcntl.flock(start_fd, fcntl.LOCK_EX)
        lock_fd = _lock(sockets)
        if lock_fd < 0:
            os.write(writer, bytes([EXIT_ALREADY_SERVED]))
            os._exit(EXIT_ALREADY_SERVED)
        parent = Parent(sockets, lock_fd, ctypes.CDLL(None).prctl)
        os.close(start_fd)
        os.write(writer, b"\0")
        os.close(writer)
        parent.run()
        code = 0
    except BaseException:  # the edge of the process: the log is all that can be told
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _open_standard_streams(log: str) -> None:
    """Descriptors 0, 1 and 2 are open from here on, so that no FIFO or spool gets one of them."""
    null_fd = os.open("/dev/null", os.O_RDWR)
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    for target, fd in ((0, null_fd), (1, log_fd), (2, log_fd)):
        os.dup2(fd, target)
    for fd in (null_fd, log_fd):
        if fd > 2:
            os.close(fd)


def _open_lock(sockets: str, name: str) -> int:
    """A descriptor of a lock file in the folder of the sockets."""
    return os.open(os.path.join(sockets, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(sockets: str) -> int:
    """The descriptor that holds the folder's lock; -1 where another parent has it."""
    fd = _open_lock(sockets, LOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        os.close(fd)
        return -1
    return fd
