"""That this machine joined a daemon: whom it trusts, and the certificate that it is known by."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runyard_contract.addresses import HostPort
from runyard_contract.errors import HomeUnusable
from runyard_contract.paths import atomic_write

MEMBERSHIP_NAME = "membership.json"
STATUS_NAME = "status.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Membership:
    """What is kept in the agent's folder, in a file that only the agent's account can read."""

    daemon: str
    """HOST:PORT of the port of people, as a person gave it."""
    agent_port: int
    compute: str
    authority: str
    """The certificate of the daemon's authority, as PEM."""
    certificate: str
    """The node's, as PEM."""
    key: str
    """The private key of it, as PEM."""
    issued_s: float
    """When the certificate was issued, seconds since the Unix epoch."""

    def __repr__(self) -> str:
        return f"Membership({self.daemon!r}, {self.compute!r})"

    @property
    def address(self) -> HostPort:
        """Where nodes have their sessions."""
        return HostPort(HostPort.parse(self.daemon).host, self.agent_port)

    def renewed(self, key: str, certificate: str, issued_s: float) -> Membership:
        """The same with the next certificate."""
        return replace(self, key=key, certificate=certificate, issued_s=issued_s)

    def save(self, home: Path) -> None:
        """Keeps it, durably."""
        atomic_write(
            home / MEMBERSHIP_NAME, json.dumps({"format": _FORMAT, **asdict(self)}).encode()
        )


class StatusFile:
    """How the agent is, for whoever asks on this machine: a file that is replaced as a whole."""

    def __init__(self, home: Path) -> None:
        self._path = home / STATUS_NAME
        self._told: dict[str, Any] = {}

    def tell(self, state: str, why: str) -> None:
        """Writes that it is "connected" or "disconnected", why, and since when.

        A full disk changes nothing; it is written with the next change.
        """
        is_same_state = self._told.get("state") == state
        since_s = self._told["since_s"] if is_same_state else time.time()
        told = {"pid": os.getpid(), "state": state, "why": why, "since_s": since_s}
        if told == self._told:
            return
        self._told = told
        with contextlib.suppress(OSError):
            atomic_write(self._path, json.dumps(told).encode(), sync=False)


def read_status(home: Path) -> dict[str, Any]:
    """What the agent last told; empty where it told nothing."""
    try:
        told = json.loads((home / STATUS_NAME).read_bytes())
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError):
        return {}


def read_membership(home: Path) -> Membership | None:
    """What is kept; None: the machine has joined nothing. Raises HomeUnusable."""
    path = home / MEMBERSHIP_NAME
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        if fields.pop("format") != _FORMAT:
            raise ValueError("another format")
        return Membership(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HomeUnusable(
            f"{path} can't be read: {error}",
            hint="have this machine join again, with another folder as --home",
            home=str(home),
        ) from None
