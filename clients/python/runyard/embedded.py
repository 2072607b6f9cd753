"""The embedded daemon: found by its data directory, started by the first client that needs it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from runyard.address import Address, GivenAddress
from runyard_contract.errors import (
    DaemonStartFailed,
    DaemonUnavailable,
    Draining,
    RunyardError,
)
from runyard_contract.home import (
    LAST_DAEMON_RECORD,
    DaemonRecord,
    check_socket,
    grpc_target,
    read_daemon_record,
)
from runyard_contract.version import build_id

_DRAIN_LIMIT_S = 15.0
_POLL_S = 0.004
# One to replace what is there, one more for a daemon that proves older than it was recorded.
_MOST_ROUNDS = 4


class EmbeddedAddress(Address):
    """The daemon of a data directory.

    A daemon of an older build that a client started is replaced; its runs go on, and its other
    clients come back to the new one by themselves.

    Args:
        home: the data directory.
        can_start: start a daemon where none runs, or in place of an older one; else an error.
        any_version: talk to a daemon of any version (it serves AdminService only).
    """

    def __init__(self, home: Path, *, can_start: bool = True, any_version: bool = False) -> None:
        self._home = home
        self._can_start = can_start
        self._any_version = any_version
        self._pid = 0  # of the daemon that was last connected to

    @property
    def home(self) -> Path | None:
        """See Address."""
        return self._home

    @property
    def is_near(self) -> bool:
        """See Address."""
        return True

    def __str__(self) -> str:
        return str(self._home)

    def target(self) -> str:
        """See Address."""
        record = read_daemon_record(self._home)
        if record is None or record.version != build_id() or not has_socket(record):
            record = self._ensure()
        self._pid = record.pid
        return grpc_target(Path(record.socket))

    def revive(self, error: RunyardError) -> None:
        """See Address."""
        if isinstance(error, Draining):
            from runyard.daemon_start import living

            deadline = time.monotonic() + _DRAIN_LIMIT_S
            while (record := living(self._home)) is not None and record.pid == self._pid:
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
        self._ensure()

    def _ensure(self) -> DaemonRecord:
        """The record of a daemon that accepts connections and serves this build."""
        from runyard.daemon_start import living, start_lock
        from runyard.succession import Step, cannot_wait, step

        record = living(self._home)
        if record is not None:
            if self._any_version or step(build_id(), record.version) is Step.USE:
                return record
            if not self._can_start:
                raise cannot_wait(build_id(), record.version)
        elif not self._can_start:
            raise DaemonUnavailable(
                f"no daemon runs for {self._home}",
                hint="any command that needs one starts it",
                home=str(self._home),
            )
        with start_lock(self._home):
            return self._settled()

    def _settled(self) -> DaemonRecord:
        """The daemon that stays; the caller holds the lock of those who start one."""
        from runyard.daemon_start import living
        from runyard.succession import Step, step

        for _ in range(_MOST_ROUNDS):
            record = living(self._home) or self._start()
            try:
                what = step(build_id(), record.version)
                if what is Step.ASK:
                    is_embedded = self._is_embedded(record)
                    what = step(build_id(), record.version, is_embedded=is_embedded)
                if what is Step.USE:
                    return record
                self._stop(record)
            except DaemonUnavailable:
                continue  # it has just ended
        raise DaemonStartFailed(
            f"the daemon of {self._home} is replaced by another again and again",
            hint="see who starts it with `runyard daemon status`",
            home=str(self._home),
        )

    def _start(self) -> DaemonRecord:
        """Starts a daemon with the interpreter that has the newest build, as far as is known."""
        from runyard.daemon_start import start
        from runyard.succession import interpreters

        if not sys.executable:
            raise DaemonStartFailed(
                "this program does not know its Python interpreter, so it can't start a daemon",
                hint="start one with any `runyard` command",
            )
        last = read_daemon_record(self._home, LAST_DAEMON_RECORD)
        *others, own = interpreters(build_id(), sys.executable, last)
        for interpreter in others:
            if os.access(interpreter, os.X_OK):
                try:
                    return start(self._home, interpreter)
                except RunyardError:
                    continue  # not what it was: this client's own tells what is wrong, if anything
        return start(self._home, own)

    def _is_embedded(self, record: DaemonRecord) -> bool:
        """Whether a client started this daemon."""
        from runyard.channel import Connection
        from runyard.daemon_end import server_info

        with Connection(GivenAddress(Path(record.socket), None)) as connection:
            return server_info(connection).is_embedded

    def _stop(self, record: DaemonRecord) -> None:
        """Ends an older daemon and its agent; its runs go on."""
        from runyard.channel import Connection
        from runyard.daemon_end import stop_server, wait_until_gone

        with Connection(GivenAddress(Path(record.socket), None)) as connection:
            answer = stop_server(connection)
        wait_until_gone(answer.pids, self._home)


def has_socket(record: DaemonRecord) -> bool:
    """Whether the record's socket is there; HomeUnusable where it is not safe to use."""
    try:
        check_socket(Path(record.socket))
    except FileNotFoundError:
        return False
    return True
