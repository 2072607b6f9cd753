"""The gRPC server on its Unix socket: limits, interceptor, registration."""

from __future__ import annotations

import os
from pathlib import Path

import grpc.aio
from runyard_contract.limits import MESSAGE_BYTES

from runyard_daemon.rpc.edge import Edge

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 2000),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 4),
    ("grpc.so_reuseport", 0),
)


def new_server(edge: Edge) -> grpc.aio.Server:
    """A server with its limits, not bound yet."""
    return grpc.aio.server(interceptors=[edge], options=_OPTIONS)


def bind(server: grpc.aio.Server, socket: Path) -> None:
    """Binds the socket, open to this user only. Raises OSError where the path can't be bound."""
    before = os.umask(0o077)
    try:
        bound = server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise OSError(f"can't bind the socket {socket}: {error}") from error
    finally:
        os.umask(before)
    if not bound:
        raise OSError(f"can't bind the socket {socket}")
