"""The way to the daemon. That over a network is in `network_route`."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Protocol

import grpc

from runyard_agent.core.backoff import Backoff
from runyard_contract.home import DAEMON_RECORD, check_socket, grpc_target
from runyard_contract.limits import MESSAGE_BYTES

LOCAL_BACKOFF = Backoff(first_s=0.05, cap_s=1.0)
"""For the socket on this machine: a daemon that was started again is found at once."""
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class Route(Protocol):
    """A way to the daemon."""

    backoff: Backoff
    """Pauses between tries."""
    follows_daemon: bool
    """Whether a person who stops the daemon stops this agent, too, and an agent of another build is
    replaced by the daemon."""

    def open(self) -> grpc.aio.Channel:
        """A new channel. Raises OSError, HomeUnusable where there is no way now."""
        ...


class LocalRoute:
    """The daemon's socket.

    Args:
        daemon_socket: where it was when the agent was started.
        home: the agent's folder; the daemon's record is beside it.
    """

    backoff = LOCAL_BACKOFF
    follows_daemon = True

    def __init__(self, daemon_socket: Path, home: Path) -> None:
        self._daemon_socket = daemon_socket
        self._home = home

    def open(self) -> grpc.aio.Channel:
        """See Route."""
        return grpc.aio.insecure_channel(grpc_target(self._find()), options=OPTIONS)

    def _find(self) -> Path:
        """Where the daemon listens now: where it did, or where its record says."""
        candidates = [self._daemon_socket]
        for folder in (self._daemon_socket.parent, self._home.parent):
            try:
                record = json.loads((folder / DAEMON_RECORD).read_bytes())
                candidates.append(Path(record["socket"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        for candidate in dict.fromkeys(candidates):
            if _listens(candidate):
                check_socket(candidate)
                return candidate
        raise ConnectionRefusedError(f"no daemon listens at {candidates[0]}")


def _listens(path: Path) -> bool:
    """Whether somebody accepts connections on a socket."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except OSError:
            return False
    return True
