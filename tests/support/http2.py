"""HTTP/2 frames by hand, for peers that break its rules on purpose."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
FRAME_BYTES = 16_384
LIMIT_S = 20.0


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not put into the table of the other side."""
    return b"\x00" + _text(name) + _text(value)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    left, encoded = len(data) - 127, b"\x7f"
    while left >= 128:
        encoded += bytes([left % 128 + 128])
        left //= 128
    return encoded + bytes([left]) + data


def call_headers(path: str, *extra: tuple[bytes, bytes]) -> bytes:
    """The headers that begin a call of gRPC."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    )
    return b"".join(literal(name, value) for name, value in fields)


@contextmanager
def connection(path: Path, *, with_preface: bool = True) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(LIMIT_S)
        peer.connect(str(path))
        if with_preface:
            peer.sendall(PREFACE + frame(SETTINGS))
        yield peer


def frames(peer: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of what comes, until the other side closes."""
    while (head := _exactly(peer, 9)) is not None:
        size = int.from_bytes(head[:3], "big")
        payload = _exactly(peer, size)
        if payload is None:
            return
        yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload


def _exactly(peer: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            piece = peer.recv(size - len(data))
        except ConnectionError:
            return None
        if not piece:
            return None
        data += piece
    return data


def send_until_refused(peer: socket.socket, data: bytes, times: int) -> int:
    """Sends data again and again; gives how often that went before the other side had enough."""
    for count in range(times):
        try:
            peer.sendall(data)
        except (ConnectionError, TimeoutError):
            return count
    return times
