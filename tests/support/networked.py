"""Calls to a daemon's TLS ports, in the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runyard_contract.addresses import DAEMON_NAME, HostPort
from runyard_contract.version import build_id
from runyard_daemon.identity.authority import AUTHORITY_NAME
from runyard_daemon.rpc.ports import IDENTITY_FOLDER
from runyardpb.agent.v1 import agent_pb2
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceStub
from runyardpb.v1 import access_pb2
from runyardpb.v1.access_pb2_grpc import AccessServiceStub
from support.served import Served

ANY_PORT = HostPort("127.0.0.1", 0)
PORTS = {"listen": ANY_PORT, "agent_listen": ANY_PORT}
"""Settings of a daemon with both ports."""
_OPTIONS = (
    ("grpc.ssl_target_name_override", DAEMON_NAME),
    ("grpc.use_local_subchannel_pool", 1),
)


def authority_of(home: Path) -> bytes:
    """The certificate of a daemon's authority, as PEM."""
    content = (home / IDENTITY_FOLDER / AUTHORITY_NAME).read_bytes()
    return content[content.index(b"-----BEGIN CERTIFICATE-----") :]


@dataclass(frozen=True)
class Key:
    """The key of a machine."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls) -> Key:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def request(self) -> bytes:
        """The request for its certificate, as PEM."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@contextlib.asynccontextmanager
async def people_channel(daemon: Served, *tokens: str) -> AsyncIterator[Any]:
    """A channel to the port of people that shows these tokens with each call."""
    bearer = [("authorization", f"Bearer {token}") for token in tokens]
    credentials = grpc.ssl_channel_credentials(authority_of(daemon.home))
    async with grpc.aio.secure_channel(
        str(daemon.app.reach.people),
        credentials,
        options=_OPTIONS,
        interceptors=_showing(bearer),
    ) as channel:
        yield channel


@contextlib.asynccontextmanager
async def node_channel(
    daemon: Served, key: Key | None, certificate: bytes | None
) -> AsyncIterator[Any]:
    """A channel to the port of nodes, with a certificate or without one."""
    credentials = grpc.ssl_channel_credentials(
        authority_of(daemon.home), key.pem if key else None, certificate
    )
    async with grpc.aio.secure_channel(
        str(daemon.app.reach.nodes), credentials, options=_OPTIONS
    ) as channel:
        yield channel


async def new_token(
    daemon: Served, role: access_pb2.TokenRole.ValueType, **fields: Any
) -> access_pb2.CreateTokenResponse:
    """A token that the daemon's own user makes."""
    if role != access_pb2.TOKEN_ROLE_AGENT:
        fields.setdefault("bearer", "ana")
    request = access_pb2.CreateTokenRequest(role=role, **fields)
    stub: Any = AccessServiceStub(daemon.channel)
    answer: access_pb2.CreateTokenResponse = await stub.CreateToken(request)
    return answer


async def enroll(channel: Any, key: Key, node_id: str = "n-1") -> agent_pb2.EnrollResponse:
    """Joins as a machine."""
    stub: Any = AgentServiceStub(channel)
    answer: agent_pb2.EnrollResponse = await stub.Enroll(
        agent_pb2.EnrollRequest(
            node_id=node_id,
            certificate_request=key.request,
            hostname="host1",
            agent_version=build_id(),
        )
    )
    return answer


class _Showing:
    """Adds metadata to every call."""

    def __init__(self, more: Sequence[tuple[str, str]]) -> None:
        self._more = tuple(more)

    async def _go_on(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._more)
        return await continuation(details._replace(metadata=metadata), request)


class _UnaryUnary(_Showing, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self._go_on(continuation, details, request)


class _UnaryStream(_Showing, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self._go_on(continuation, details, request)


class _StreamUnary(_Showing, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self._go_on(continuation, details, request)


class _StreamStream(_Showing, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self._go_on(continuation, details, request)


def _showing(more: Sequence[tuple[str, str]]) -> list[Any]:
    kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    return [kind(more) for kind in kinds] if more else []
