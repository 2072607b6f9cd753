"""Starts the daemon of a data directory, one client at a time, and waits until it serves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from runyard.embedded import has_socket
from runyard_contract.errors import DaemonStartFailed, RunyardError, class_for_reason
from runyard_contract.home import (
    DaemonRecord,
    can_host_daemon,
    check_home,
    read_daemon_record,
)
from runyard_contract.logfile import open_log

START_LIMIT_S = 30.0
# Longer than one client takes to stop a daemon and to start another.
_TURN_LIMIT_S = 90.0
_POLL_S = 0.004
_GREETING_LIMIT_S = 2.0
_OTHER_STARTER_S = 1.0
_LOCK = "start.lock"
_LOG = "daemon.log"
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16 << 10
# A second daemon of one data directory ends with this reason in its log.
_LOST_THE_RACE = b"ALREADY_RUNNING"
# Forks and ends, so that the daemon is nobody's child: no zombie, no warning, no hang-up.
_DETACH = (
    "import os, sys\n"
    "pid = os.fork()\n"
    "if pid:\n"
    "    os.write(1, b'%d' % pid)\n"
    "    os._exit(0)\n"
    "os.dup2(2, 1)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
_JOB_VARIABLES = frozenset(
    "RUNYARD_RUN_ID RUNYARD_EXPERIMENT RUNYARD_WORKSPACE RUNYARD_ATTEMPT RUNYARD_NODE_RANK "
    "RUNYARD_WORLD_SIZE RUNYARD_JOB_DIR RUNYARD_OUTPUT_DIR".split()
)


@contextlib.contextmanager
def start_lock(home: Path) -> Iterator[None]:
    """Holds off other clients that would start, or replace, the daemon of a data directory.

    Without it an older client could start its own daemon while a newer one changes them. Makes the
    directory where it is missing. Raises HomeUnusable, DaemonStartFailed.
    """
    if not can_host_daemon():
        raise DaemonStartFailed(
            "a daemon runs on Linux only, so none can be started here",
            hint="connect to a daemon elsewhere with `runyard login`",
        )
    check_home(home)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(home / _LOCK, flags, 0o600)
    except OSError as error:
        raise DaemonStartFailed(
            f"the daemon can't be started: {home / _LOCK}: {error.strerror}",
            hint="see `runyard doctor`",
            home=str(home),
        ) from None
    try:
        _take_turn(fd, home)
        yield
    finally:
        os.close(fd)


def _take_turn(fd: int, home: Path) -> None:
    """Waits for the lock."""
    deadline = time.monotonic() + _TURN_LIMIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DaemonStartFailed(
                    f"another client has been starting the daemon of {home} for "
                    f"{_TURN_LIMIT_S:.0f} s",
                    hint="end that client, then try again",
                    home=str(home),
                ) from None
            time.sleep(_POLL_S)


def living(home: Path) -> DaemonRecord | None:
    """The record of a data directory whose daemon serves connections, else None."""
    record = read_daemon_record(home)
    if record is None or not has_socket(record):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_GREETING_LIMIT_S)
        try:
            probe.connect(record.socket)
            # HTTP/2 servers speak first. A daemon that is just being killed still takes the
            # connection, and then closes it.
            return record if probe.recv(1) else None
        except TimeoutError:
            return record  # it hangs, and is alive
        except OSError:
            return None


def start(home: Path, interpreter: str) -> DaemonRecord:
    """Starts a daemon for a data directory and waits until it accepts connections.

    The caller holds `start_lock`. Where a person serves the directory at the same time, there is
    one daemon in the end, and its record is returned. Raises what the daemon says against it, or
    DaemonStartFailed with the end of the daemon's log.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        started = _Starting(home, interpreter)
        try:
            record = started.wait(deadline)
        finally:
            started.close()
        if record is None and started.lost_the_race():
            record = _wait_for_other(home, min(deadline, time.monotonic() + _OTHER_STARTER_S))
            if record is None and time.monotonic() < deadline:
                continue  # the other one was on its way out
        if record is None:
            raise started.failure()
        return record


def _wait_for_other(home: Path, deadline: float) -> DaemonRecord | None:
    """Waits for a daemon that somebody else started."""
    while (record := living(home)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return record


class _Starting:
    """A daemon process that was started, until it listens or ends."""

    def __init__(self, home: Path, interpreter: str) -> None:
        self._home = home
        self._interpreter = interpreter
        self._log = home / _LOG
        self._log_start = 0  # bytes that were there before
        self._pid_fd = _open_pid(self._spawn())

    def _spawn(self) -> int:
        """Starts the process in a session of its own, without anything of the caller."""
        daemon = [self._interpreter, "-P", "-m", "runyard_daemon", "serve", "--embedded"]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PYTHON") and name not in _JOB_VARIABLES
        }
        try:
            with os.fdopen(open_log(self._log), "ab", buffering=0) as log:
                self._log_start = os.fstat(log.fileno()).st_size
                detached = subprocess.run(
                    [sys.executable, "-I", "-S", "-c", _DETACH, *daemon, "--home", str(self._home)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._home,
                    env=environment,
                    start_new_session=True,
                    check=True,
                    timeout=START_LIMIT_S,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise DaemonStartFailed(
                f"the daemon could not be started: {error}",
                hint="see `runyard doctor`",
                log=str(self._log),
            ) from None
        return int(detached.stdout)

    def wait(self, deadline: float) -> DaemonRecord | None:
        """The daemon's record once it listens; None when the process ended or time is up."""
        while (record := living(self._home)) is None:
            if self._pid_fd is None or time.monotonic() > deadline:
                return None
            if select.select([self._pid_fd], [], [], _POLL_S)[0]:
                return living(self._home)
        return record

    def close(self) -> None:
        """Lets go of the process."""
        if self._pid_fd is not None:
            os.close(self._pid_fd)

    def _said(self) -> bytes:
        """The end of what was logged since the start."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return log.read()
        return b""

    def lost_the_race(self) -> bool:
        """Whether the process ended because another daemon has the data directory."""
        return _LOST_THE_RACE in self._said()

    def failure(self) -> RunyardError:
        """The error that the daemon gave for not starting, else one with the end of its log."""
        lines = self._said().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        for line in reversed(lines):
            told = _told_error(line)
            if told is not None:
                return told
        said = "".join(f"\n    {line}" for line in lines) or " it logged nothing"
        return DaemonStartFailed(
            f"the daemon did not start; the end of {self._log}:{said}",
            hint="see `runyard doctor`",
            log=str(self._log),
        )


def _told_error(line: str) -> RunyardError | None:
    """The error in a line of the daemon's log that says why it did not start."""
    try:
        record = json.loads(line)
        if record["event"] != "start_failed":
            return None
        cls = class_for_reason(record["reason"]) or DaemonStartFailed
        return cls.restore(str(record["message"]), str(record["hint"]), {})
    except (ValueError, KeyError, TypeError):
        return None


def _open_pid(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
