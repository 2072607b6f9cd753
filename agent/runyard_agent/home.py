"""The agent's folder: one agent in it at a time, and an identity that stays."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from runyard_contract.errors import AlreadyRunning
from runyard_contract.home import check_home
from runyard_contract.paths import atomic_write

LOCK_NAME = "agent.lock"
IDENTITY_NAME = "agent.json"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and what lies where in it. The lock is held as long as `lock_fd` is open."""

    path: Path
    node_id: str
    lock_fd: int

    @property
    def runs(self) -> Path:
        """Bundles: one folder for each attempt."""
        return self.path / "runs"

    @property
    def environments(self) -> Path:
        """Built environments."""
        return self.path / "environments"

    @property
    def cache(self) -> Path:
        """What can be made or fetched again."""
        return self.path / "cache"

    @property
    def supervisor(self) -> Path:
        """Sockets of the supervisor."""
        return self.path / "supervisor"

    @property
    def trash(self) -> Path:
        """What waits to be deleted."""
        return self.path / "trash"

    def is_there(self) -> bool:
        """Whether the folder is still the one that was locked (it may be deleted under us)."""
        try:
            here = os.stat(self.path / LOCK_NAME)
        except OSError:
            return False
        held = os.fstat(self.lock_fd)
        return (here.st_dev, here.st_ino) == (held.st_dev, held.st_ino)

    def close(self) -> None:
        """Gives the folder free for the next agent."""
        os.close(self.lock_fd)


def open_home(path: Path) -> Home:
    """Takes the agent's folder, making what is missing.

    Raises AlreadyRunning where another agent has it, HomeUnusable where it can't be used.
    """
    check_home(path)
    lock_fd = _lock(path)
    for name in ("runs", "environments", "cache", "supervisor", "trash"):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    return Home(path, _node_id(path), lock_fd)


def _lock(path: Path) -> int:
    """The descriptor that holds the lock; the file says who holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path / LOCK_NAME, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 20).decode("ascii", "replace").strip()
        os.close(fd)
        raise AlreadyRunning(
            f"an agent (process {pid}) already runs in {path}",
            hint="it is the one to use; stop it first to start another",
            pid=pid,
            home=str(path),
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _node_id(path: Path) -> str:
    """The node's name: made once from the host name and chance, then kept."""
    file = path / IDENTITY_NAME
    try:
        node_id = json.loads(file.read_bytes())["node_id"]
        if isinstance(node_id, str) and node_id:
            return node_id
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    node_id = f"{os.uname().nodename}-{secrets.token_hex(4)}"
    atomic_write(file, json.dumps({"node_id": node_id}).encode())
    return node_id
