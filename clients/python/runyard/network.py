"""A daemon on a network: by TLS alone, trusted by its pinned authority, with a token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runyard.address import Address
from runyard.credentials import TOKEN_VARIABLE, Credentials, Login
from runyard_contract.addresses import DAEMON_NAME, PORT, HostPort
from runyard_contract.errors import DaemonUnavailable, RunyardError, Unauthenticated

if TYPE_CHECKING:
    import grpc

SCHEME = "runyard://"


class NetworkAddress(Address):
    """A daemon that listens for others.

    Args:
        address: where.
        login: whom to trust there, and the token to show.
        home: the data directory on this machine, for what clients remember.
    """

    def __init__(self, address: HostPort, login: Login, home: Path) -> None:
        self._address = address
        self._login = login
        self._home = home

    @classmethod
    def of(cls, text: str, environ: Mapping[str, str], home: Path) -> NetworkAddress:
        """The daemon of an address that a person gave, or is logged in to.

        The token of RUNYARD_TOKEN comes before the one that is remembered. Raises SpecInvalid for
        what is no address, Unauthenticated where nobody has logged in there, CredentialsUnusable.
        """
        address = HostPort.parse(text.removeprefix(SCHEME), port=PORT)
        login = Credentials(environ).find(str(address))
        if login is None:
            raise Unauthenticated(
                f"you are not logged in to {address}",
                hint=f"run `runyard login {address}` once; it asks for a token",
                address=str(address),
            )
        token = environ.get(TOKEN_VARIABLE) or login.token
        return cls(address, Login(login.authority, token), home)

    def target(self) -> str:
        """See Address."""
        return str(self._address)

    def open(self, options: tuple[tuple[str, Any], ...]) -> grpc.Channel:
        """See Address. The token never goes over a connection that is not secure."""
        import grpc

        secure = grpc.ssl_channel_credentials(self._login.authority.encode())
        bearer = grpc.access_token_call_credentials(self._login.token)
        return grpc.secure_channel(
            self.target(),
            grpc.composite_channel_credentials(secure, bearer),
            options=(*options, ("grpc.ssl_target_name_override", DAEMON_NAME)),
        )

    def revive(self, error: RunyardError) -> None:
        """See Address: whoever runs the daemon looks after it."""
        if isinstance(error, DaemonUnavailable):
            raise DaemonUnavailable(
                f"no daemon that you trust answers at {self}",
                hint="see whether it runs there; if it was set up anew, log in again with "
                f"`runyard login {self}`",
                address=str(self),
            ) from None
        raise error

    @property
    def home(self) -> Path | None:
        """See Address."""
        return self._home

    @property
    def is_near(self) -> bool:
        """See Address."""
        return False

    def __str__(self) -> str:
        return str(self._address)
