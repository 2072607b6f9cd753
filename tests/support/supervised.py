"""A real supervisor for tests: started in a short folder of its own, spoken to in raw lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runyard_agent.slots import Supervisor

DEADLINE_S = 20.0
ORDER_RECORD = struct.Struct("<BxxxIQ")


def python(source: str) -> list[str]:
    """The argv of a Python job that starts quickly."""
    return [sys.executable, "-I", "-S", "-c", source]


def wait_gone(pid: int) -> None:
    """Returns when the process has ended (reaped or not); fails after the deadline."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], DEADLINE_S)[0], f"process {pid} is still there"
    finally:
        os.close(fd)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Peer:
    """One connection that speaks JSON lines, blocking, with a deadline."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE_S)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self._inbox = b""

    def send(self, **message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side has hung up."""
        while b"\n" not in self._inbox:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._inbox += data
        line, self._inbox = self._inbox.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of a kind with these fields, dropping others on the way."""
        dropped = []
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            message = self.receive()
            assert message is not None, f"hung up before {event}; had {dropped}"
            if message.get("event") == event and fields.items() <= message.items():
                return message
            dropped.append(message)
        raise AssertionError(f"no {event} {fields} in time; had {dropped}")

    def wait_for_bytes(self, bundle: Bundle, text: bytes, stream: str = "stdout") -> bytes:
        """What the job has written, once it holds `text`."""
        while text not in bundle.read(stream):
            self.wait_for("output", bundle=str(bundle.path))
        return bundle.read(stream)

    def finish(self, bundle: Bundle) -> dict[str, Any]:
        """The exit record of a bundle, from its event."""
        record: dict[str, Any] = self.wait_for("exited", bundle=str(bundle.path))["exit"]
        return record

    def close(self) -> None:
        self.socket.close()


class Bundle:
    """A run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return b""

    def record(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.read(name))
        return content

    def pieces(self) -> list[tuple[int, int, int]]:
        """The order index: (stream, length, offset) of each piece."""
        return list(ORDER_RECORD.iter_unpack(self.read("order")))

    def merged(self) -> bytes:
        """The merged log as the order index tells it."""
        streams = {1: self.read("stdout"), 2: self.read("stderr")}
        return b"".join(streams[s][offset : offset + n] for s, n, offset in self.pieces())


class Node:
    """A folder with a supervisor in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "supervisor"
        self.supervisor = Supervisor(self.folder)
        self.parent_pid = self.start()
        self._bundles = 0
        self._peers: list[Peer] = []

    def start(self) -> int:
        """Starts the parent, or finds it; its pid."""
        self.parent_pid = asyncio.run(self.supervisor.start())
        return self.parent_pid

    def ask(self, **command: Any) -> dict[str, Any]:
        """One question to the parent."""
        peer = Peer(str(self.folder / "parent.sock"))
        peer.send(**command)
        reply = peer.receive()
        peer.close()
        assert reply is not None, f"no answer to {command}"
        return reply

    def slot(self, number: int = 0) -> Peer:
        """A connection to a slot whose hello is still to be read."""
        reply = self.ask(op="slot", slot=number)
        assert reply["ok"], reply
        return self.connect(reply["socket"])

    def connect(self, path: str) -> Peer:
        peer = Peer(path)
        self._peers.append(peer)
        return peer

    def slot_pid(self, number: int = 0) -> int:
        pid: int = self.ask(op="slot", slot=number)["pid"]
        return pid

    def bundle(self, argv: list[str], **spec: Any) -> Bundle:
        """A new bundle that executes `argv` in its own work folder."""
        self._bundles += 1
        path = self.root / f"run_{self._bundles}.1"
        (path / "work").mkdir(parents=True)
        env = {"PATH": os.environ["PATH"], "RUNYARD_RUN_ID": f"{self.root.name}_{self._bundles}"}
        content = {
            "format": 1,
            "run_id": env["RUNYARD_RUN_ID"],
            "attempt": 1,
            "epoch": 7,
            "argv": argv,
            "env": env | {"RUNYARD_ATTEMPT": "1"},
            "cwd": str(path / "work"),
            "merge_stderr": False,
            "grace_s": 30.0,
            "max_duration_s": None,
            "spool_bound_bytes": 1 << 28,
        }
        content |= spec
        (path / "spec.json").write_text(json.dumps(content))
        return Bundle(path)

    def run(self, peer: Peer, argv: list[str], **spec: Any) -> tuple[Bundle, dict[str, Any]]:
        """Executes `argv` to its end: the bundle and the exit record."""
        bundle = self.bundle(argv, **spec)
        peer.send(op="spawn", bundle=str(bundle.path))
        return bundle, peer.finish(bundle)

    def kill(self, pid: int) -> None:
        """kill -9, and waits until it has worked."""
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)

    def close(self) -> None:
        """Ends everything: a dead slot supervisor makes the parent end its run."""
        for peer in self._peers:
            peer.close()
        self.start()
        pids = self.ask(op="ping")["slots"].values()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self.kill(pid)
        # An answer means that the run which was lost is ended.
        fresh = [self.ask(op="slot", slot=number)["pid"] for number in range(2)]
        self.ask(op="shutdown")
        for pid in (self.parent_pid, *fresh):
            wait_gone(pid)
        for bundle in self.root.glob("*.1"):
            state = bundle / "state.json"
            if state.exists():
                pid = json.loads(state.read_bytes()).get("pid")
                assert not pid or not is_running(pid), f"{bundle} has left process {pid}"
        log = (self.folder / "supervisor.log").read_text()
        shutil.rmtree(self.root)
        assert "Traceback" not in log, log


@contextlib.contextmanager
def supervised_node(start: Callable[[Path], None] | None = None) -> Iterator[Node]:
    """A node whose supervisor and runs are gone afterwards.

    `start` starts the supervisor of a folder in another way than an agent does.
    """
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    if start is not None:
        start(root / "supervisor")
    node = Node(root)
    try:
        yield node
    finally:
        node.close()
