"""The daemon's ports on a network: TLS always, one for people and one for nodes.

Loaded only by a daemon that has them: what signs certificates takes as long to load as a quarter of
all else.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from runyard_contract.addresses import HostPort
from runyard_contract.errors import HomeUnusable
from runyard_daemon.config import Config
from runyard_daemon.control.access import Access
from runyard_daemon.identity.authority import SERVER_DAYS, Authority
from runyard_daemon.rpc.access import Reach
from runyard_daemon.rpc.doors import NodesDoor, PeoplesDoor
from runyard_daemon.rpc.edge import Edge
from runyard_daemon.rpc.enrolment import Issue
from runyard_daemon.rpc.server import new_server

IDENTITY_FOLDER = "identity"
_RENEW = datetime.timedelta(days=SERVER_DAYS / 3)

Now = Callable[[], datetime.datetime]


class ServerIdentity:
    """What the daemon shows at its ports: a certificate that is made anew before it expires."""

    def __init__(self, home: Path, now: Now) -> None:
        self.authority = Authority.open(home / IDENTITY_FOLDER, now())
        self._now = now

    def credentials(self, *, for_nodes: bool) -> grpc.ServerCredentials:
        """What a port shows, and whether it asks for a certificate of the daemon's authority."""
        first, until = self._configuration()
        due = until

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Asked by gRPC at each handshake; None: no change."""
            nonlocal due
            if self._now() < due:
                return None
            configuration, due = self._configuration()
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            first,
            renewed,  # type: ignore[arg-type]  # grpc-stubs don't know that None means no change
            require_client_authentication=for_nodes,
        )

    def _configuration(self) -> tuple[grpc.ServerCertificateConfiguration, datetime.datetime]:
        now = self._now()
        made = self.authority.issue_server(now)
        configuration = grpc.ssl_server_certificate_configuration(
            [(made.key, made.chain)], root_certificates=self.authority.certificate
        )
        return configuration, now + _RENEW


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of a daemon, bound and not open yet."""

    servers: list[grpc.aio.Server]
    reach: Reach
    issue: Issue
    authority: bytes
    """Its certificate as PEM."""


def bind_ports(config: Config, edge: Edge, access: Access, now: Now) -> Ports:
    """Binds the ports that a daemon is to have. Raises HomeUnusable."""
    identity = ServerIdentity(config.home, now)
    authority = identity.authority
    servers: list[grpc.aio.Server] = []
    bound: list[HostPort | None] = []
    for address, door, for_nodes in (
        (config.listen, PeoplesDoor(access), False),
        (config.agent_listen, NodesDoor(access), True),
    ):
        if address is None:
            bound.append(None)
            continue
        server = new_server(edge, door)
        port = _bind(server, address, identity.credentials(for_nodes=for_nodes))
        servers.append(server)
        bound.append(HostPort(address.host, port))
    return Ports(
        servers,
        Reach(bound[0], bound[1], authority.fingerprint),
        lambda csr, name: authority.issue_node(csr, name, now()),
        authority.certificate,
    )


def _bind(server: grpc.aio.Server, address: HostPort, credentials: grpc.ServerCredentials) -> int:
    """Binds a port, and gives its number. Raises HomeUnusable where it can't be bound."""
    try:
        bound = server.add_secure_port(str(address), credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise HomeUnusable(
            f"{address} can't be bound",
            hint="see who listens there with `ss -ltnp`, or name another port",
            address=str(address),
        )
    return bound
