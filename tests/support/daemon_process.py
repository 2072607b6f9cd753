"""A daemon as a process of its own, started as clients start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from runyard_contract.home import DAEMON_RECORD
from runyardpb.v1 import admin_pb2, admin_pb2_grpc
from support.house import end_processes_naming, eventually

LIMIT_S = 30.0


class DaemonProcess:
    """Use it as a context: the daemon serves inside, and nothing of it is left behind.

    Args:
        home: its data directory.
        options: more for its command line.
        env: more variables.
        command: what to run instead of the daemon as it is.
    """

    def __init__(
        self,
        home: Path,
        *options: str,
        env: dict[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.home = home
        serve = [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home)]
        self._command = [*(command or serve), *options]
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.log = home.parent / f"{home.name}.log"

    def spawn(self, env: dict[str, str] | None = None) -> None:
        """Starts the daemon, with more variables this once, and does not wait for it."""
        if self._process is not None:
            self._process.wait(timeout=LIMIT_S)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> DaemonProcess:
        """Starts the daemon and waits until it serves."""
        self.spawn()
        eventually(self._is_serving, limit_s=LIMIT_S, what=f"serving; log: {self.log}")
        return self

    def _is_serving(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        record = self.record()
        return record is not None and record["pid"] == self._process.pid

    def record(self) -> dict[str, Any] | None:
        """What daemon.json says; None: there is none."""
        try:
            record: dict[str, Any] = json.loads((self.home / DAEMON_RECORD).read_bytes())
        except FileNotFoundError:
            return None
        return record

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def socket(self) -> Path:
        record = self.record()
        assert record is not None
        return Path(record["socket"])

    @contextlib.contextmanager
    def channel(self) -> Any:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            yield channel

    def info(self) -> admin_pb2.GetServerInfoResponse:
        """What the daemon says of itself."""
        with self.channel() as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            return stub.GetServerInfo(
                admin_pb2.GetServerInfoRequest(), timeout=LIMIT_S, wait_for_ready=True
            )

    def is_alive(self) -> bool:
        """Whether the last one that was started still runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Signals the daemon and waits for its end; gives its exit code (-n for a signal)."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=LIMIT_S)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Waits for the daemon's own end."""
        assert self._process is not None
        return self._process.wait(timeout=limit_s)

    def events(self) -> list[dict[str, Any]]:
        """The daemon's log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def agent_pid(self) -> int:
        """The local agent, once it lives."""
        lock = self.home / "agent" / "agent.lock"
        return int(eventually(lambda: lock.exists() and lock.read_text().strip(), what="agent"))

    def close(self) -> None:
        """Ends the daemon, its agent and all that they started."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=LIMIT_S)
        end_processes_naming(str(self.home))

    def __enter__(self) -> DaemonProcess:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
