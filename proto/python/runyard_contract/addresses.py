"""Addresses of daemons on a network: HOST:PORT, and the name in the daemon's certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from runyard_contract.errors import SpecInvalid

DAEMON_NAME: Final = "daemon.runyard"
"""The name in every daemon's certificate. Its authority is its own and is pinned by its
fingerprint, so the host's name adds nothing, and a daemon is the same by whatever name, forward or
tunnel it is reached."""
PORT: Final = 7443
AGENT_PORT: Final = 7444


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host, by name or address, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, port: int | None = None) -> Self:
        """Reads `HOST:PORT`, `[ADDRESS]:PORT` or, with a default `port`, a host alone.

        Raises SpecInvalid.
        """
        host, colon, number = text.rpartition(":")
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            colon, number = rest[:1], rest[1:]
            is_host = bool(bracket) and ":" in host and colon in {"", ":"}
        else:
            host, number = (host, number) if colon else (text, "")
            is_host = ":" not in host and "/" not in host
        if not colon and port is not None:
            number = str(port)
        is_port = number.isascii() and number.isdecimal() and len(number) < 6
        if not host or not is_host or not is_port or not int(number) < 65536:
            raise SpecInvalid(
                f"{text!r} is no address",
                hint="write it as HOST:PORT, such as lab.example:7443 or [::1]:7443",
                address=text,
            )
        return cls(host, int(number))

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of a machine."""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104 - recognised, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
