"""Where the daemon is: an address that was given, or the embedded daemon of a data directory."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runyard_contract.errors import DaemonUnavailable, RunyardError, SpecInvalid
from runyard_contract.home import data_home, grpc_target

if TYPE_CHECKING:
    import grpc

ADDRESS_VARIABLE = "RUNYARD_ADDRESS"
EMBEDDED = "local"
"""What stands for the embedded daemon where an address is expected."""
_UNIX = "unix:"


class Address(ABC):
    """Where a daemon is, and what to do when it does not answer."""

    @abstractmethod
    def target(self) -> str:
        """What gRPC connects to. Starts an embedded daemon where none is."""

    def open(self, options: tuple[tuple[str, Any], ...]) -> grpc.Channel:
        """A new channel; nothing is sent yet."""
        import grpc

        return grpc.insecure_channel(self.target(), options=options)

    @abstractmethod
    def revive(self, error: RunyardError) -> None:
        """Brings back a daemon that did not answer, or raises `error`."""

    @property
    @abstractmethod
    def home(self) -> Path | None:
        """The data directory on this machine in which the client may remember things."""

    @property
    @abstractmethod
    def is_near(self) -> bool:
        """Whether it is surely on this machine, so that packing bytes for the way is in vain."""

    @abstractmethod
    def __str__(self) -> str: ...


class GivenAddress(Address):
    """A socket that the user named. Nothing is started for it."""

    def __init__(self, socket: Path, home: Path | None) -> None:
        self._socket = socket
        self._home = home

    def target(self) -> str:
        """See Address."""
        return grpc_target(self._socket)

    def revive(self, error: RunyardError) -> None:
        """See Address: whoever gave the address looks after its daemon."""
        if isinstance(error, DaemonUnavailable):
            raise DaemonUnavailable(
                f"no daemon answers at {self}",
                hint=f"start it there, or unset {ADDRESS_VARIABLE} to use a daemon of your own",
                address=str(self),
            ) from None
        raise error

    @property
    def home(self) -> Path | None:
        """See Address."""
        return self._home

    @property
    def is_near(self) -> bool:
        """See Address: ssh may forward the socket from anywhere."""
        return False

    def __str__(self) -> str:
        return f"{_UNIX}{self._socket}"


def _logged_in_to(environ: Mapping[str, str]) -> str:
    """The address of the daemon that the person is logged in to; empty: of none."""
    if not os.path.exists(credentials_path(environ)):
        return ""
    from runyard.credentials import Credentials

    return Credentials(environ).current()


def credentials_path(environ: Mapping[str, str]) -> str:
    """Where logins are remembered, by the XDG specification, which ignores a relative folder."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "runyard", "credentials.json")


def resolve(address: str | None, environ: Mapping[str, str]) -> Address:
    """The daemon to call: of the address that was given, of RUNYARD_ADDRESS, the one logged in to,
    else the embedded one, for which `local` stands, too.
    """
    text = address or environ.get(ADDRESS_VARIABLE, "") or _logged_in_to(environ)
    home = data_home(environ)
    if text in {"", EMBEDDED}:
        from runyard.embedded import EmbeddedAddress

        return EmbeddedAddress(home)
    if not text.startswith(_UNIX):
        from runyard.network import NetworkAddress

        return NetworkAddress.of(text, environ, home)
    path = text.removeprefix(_UNIX)
    path = "/" + path.lstrip("/") if path.startswith("//") else path
    if not os.path.isabs(path):
        raise SpecInvalid(
            f"the address {text!r} names no absolute path",
            hint="use unix:/path/of/daemon.sock",
            address=text,
        )
    return GivenAddress(Path(path), home)
