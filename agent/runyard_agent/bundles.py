"""A run's folder on the node: what lies where, and how far its files say that it had come.

All state of an attempt is found here, so that a restarted agent knows what a killed one knew. The
supervisor's half (`spec.json`, `state.json`, `exit.json`) has a format number of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from runyard_agent.core.reconcile import Found, Stage
from runyard_agent.supervisor import record
from runyard_agent.supervisor.holding import AWAY
from runyard_contract.errors import NameInvalid
from runyard_contract.ids import check_run_id
from runyard_contract.paths import atomic_write, write_all
from runyardpb.agent.v1 import agent_pb2 as pb

FORMAT = 1
STREAMS = ("stdout", "stderr", "order")
_FREE_EXIT = record.EXIT + record.TEMPORARY
RECORDS = ("lease.pb", record.SPEC, record.FREE_STATE, _FREE_EXIT)
"""Files that stay in a folder between two runs; the supervisor makes its two out of the last."""


@dataclass(frozen=True, slots=True)
class Key:
    """Names an attempt on this node; the epoch says which grant of it."""

    run_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run_id}.{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> Key | None:
        """The key in the name of a bundle's folder; None for another name."""
        run_id, _, number = name.rpartition(".")
        if not number.isdecimal() or int(number) < 1:
            return None
        try:
            return cls(check_run_id(run_id), int(number))
        except NameInvalid:
            return None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One attempt's folder. Paths are text; bytes that are not UTF-8 are escaped (PEP 383)."""

    path: str
    key: Key

    @property
    def work(self) -> str:
        """The job's working folder."""
        return self.path + "/work"

    @property
    def job(self) -> str:
        """Where the job library writes."""
        return self.path + "/job"

    @property
    def work_index(self) -> str:
        """What the working folder held before the job started."""
        return self.path + "/work.index"

    @property
    def environment_log(self) -> str:
        """What building the environment printed."""
        return self.path + "/environment.txt"

    @property
    def is_engine_away(self) -> bool:
        """Whether the client of its container waits for an engine that went away."""
        return os.path.lexists(f"{self.path}/{AWAY}")

    def create(self, lease: pb.Lease) -> None:
        """Makes the folder with the lease in it, before anything else is done for the attempt.

        The name appears with the lease in it or not at all. Not synced: after a power loss the
        attempt is over anyway, which the machine's boot id tells.
        """
        staged = f"{os.path.dirname(self.path)}/.{self.key}.{os.getpid()}"
        os.mkdir(staged, 0o700)
        self.put_lease(staged, lease)
        os.rename(staged, self.path)

    @staticmethod
    def put_lease(folder: str, lease: pb.Lease) -> None:
        """Writes the lease into a folder that is about to become a bundle."""
        _write(folder + "/lease.pb", lease.SerializeToString())

    @staticmethod
    def free_records(folder: str, boot_id: str) -> None:
        """Puts the supervisor's records of an ended run aside, to be written anew.

        What a supervisor that dies while it takes `state.free` leaves behind reads as a run that
        was about to be started.
        """
        os.rename(f"{folder}/{record.EXIT}", f"{folder}/{_FREE_EXIT}")
        path = f"{folder}/{record.STATE}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, _free_state(boot_id), 0)
        finally:
            os.close(fd)
        os.rename(path, f"{folder}/{record.FREE_STATE}")

    def read_lease(self) -> pb.Lease | None:
        """The lease, None where it is missing or damaged."""
        try:
            data = Path(self.path, "lease.pb").read_bytes()
            lease = pb.Lease.FromString(data)
        except (OSError, DecodeError):
            return None
        return lease if lease.ref.run else None

    def write_spec(self, content: bytes) -> None:
        """Writes what the supervisor executes. Nobody reads it before the bundle is handed over."""
        _write(self.path + "/spec.json", content)

    def read_spec(self) -> dict[str, Any] | None:
        """What the supervisor executes, None before it was written."""
        return self._read("spec.json")

    def read_exit(self) -> dict[str, Any] | None:
        """How the attempt ended, None before."""
        return self._read("exit.json")

    def sync_exit(self) -> None:
        """Makes the end and the logs durable on this machine, where they still are. Blocks."""
        for name in ("exit.json", *STREAMS):
            with contextlib.suppress(OSError):
                fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)

    def read_state(self) -> dict[str, Any] | None:
        """What the supervisor says, None before it had the attempt."""
        return self._read("state.json")

    def write_forgotten(self, expire_unix_s: float) -> None:
        """Notes that the daemon has everything; the working folder is kept until then."""
        content = {"format": FORMAT, "expire_unix_s": expire_unix_s}
        atomic_write(self.path + "/forgotten.json", json.dumps(content).encode(), sync=False)

    def expire_unix_s(self) -> float | None:
        """Until when a forgotten bundle is kept; None for one that is not forgotten."""
        content = self._read("forgotten.json")
        value = content.get("expire_unix_s") if content else None
        return float(value) if isinstance(value, int | float) else None

    def found(self, is_supervised: bool) -> Found:
        """How far it had come, for `core.reconcile.recover`."""
        lease = self.read_lease()
        epoch = lease.ref.epoch if lease else None
        if self.expire_unix_s() is not None:
            return Found(Stage.FORGOTTEN, epoch)
        state = self.read_state() or {}
        boot_id = str(state.get("boot_id", ""))
        is_ahead = lease is not None and lease.is_ahead
        exit_record = self.read_exit()
        if exit_record is not None:
            is_returned = exit_record.get("stopped_by") == "returned"
            stage = Stage.RETURNED if is_returned else Stage.EXITED
        elif state.get("phase") == "running":
            stage = Stage.RUNNING
        elif os.path.lexists(self.path + "/state.json"):
            stage = Stage.SPAWNING
        else:
            stage = Stage.LEASED
        return Found(stage, epoch, boot_id, is_supervised, is_ahead)

    def _read(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the bundle, None where it is missing or not whole."""
        try:
            content = json.loads(Path(self.path, name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None


@lru_cache(maxsize=1)
def _free_state(boot_id: str) -> bytes:
    """What `state.free` holds."""
    state = {"format": FORMAT, "phase": "spawning", "pid": None, "boot_id": boot_id}
    return record.encode(state).ljust(record.STATE_BYTES)


def scan(runs: Path) -> Iterator[Bundle]:
    """All bundles on disk. What a crash left half made is for `abandoned`."""
    with os.scandir(runs) as entries:
        for entry in entries:
            key = Key.parse(entry.name)
            if key is not None and entry.is_dir(follow_symlinks=False):
                yield Bundle(entry.path, key)


def abandoned(runs: Path) -> Iterator[str]:
    """Folders that a killed agent had not finished making."""
    with os.scandir(runs) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                yield entry.path


def _write(path: str, data: bytes) -> None:
    """Writes a file anew, not synced; over what is there, whose blocks are used again."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(fd, data)
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def file_size(path: str) -> int:
    """Size of a plain file in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        return os.stat(path, follow_symlinks=False).st_size
    return 0
