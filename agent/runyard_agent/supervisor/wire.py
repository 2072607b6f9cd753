"""JSON lines over non-blocking Unix sockets: a slow, broken or absent peer never blocks us."""

from __future__ import annotations

import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

LINE_BYTES = 64 << 10
"""The longest line that a peer may send."""
BACKLOG_BYTES = 1 << 20
"""What may wait for a peer that does not read; beyond it the connection is dropped."""


def listen(path: str) -> socket.socket:
    """A listening socket at `path`, for this user only; a stale socket there is replaced."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def encode(message: Message) -> bytes:
    """One line, ASCII: bytes of paths that are not UTF-8 travel as escaped surrogates."""
    return json.dumps(message).encode("ascii") + b"\n"


def encode_around(message: Message, name: str, encoded: bytes) -> bytes:
    """The line of a message with one more value at its end, which is JSON already."""
    return b'%b, "%b": %b}\n' % (encode(message)[:-2], name.encode("ascii"), encoded)


def decode(line: bytes) -> Message:
    """The message of one line; `{}` for anything but a JSON object."""
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


class Connection:
    """One peer. After any failure it is closed, and `is_open` says so."""

    __slots__ = ("_inbox", "_outbox", "_socket", "is_open")

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._socket = peer
        self._inbox = b""
        self._outbox = bytearray()
        self.is_open = True

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._socket.fileno()

    @property
    def has_backlog(self) -> bool:
        """Whether `flush` has something left to send."""
        return bool(self._outbox)

    def receive(self) -> list[Message]:
        """The messages that have arrived; closes at end of stream or on an endless line."""
        try:
            data = self._socket.recv(LINE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.close()
            return []
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        if len(self._inbox) > LINE_BYTES:
            self.close()
        return [decode(line) for line in lines if line]

    def send(self, message: Message) -> None:
        """Sends or queues a message; closes where the peer is gone or has stopped reading."""
        self.send_line(encode(message))

    def send_line(self, line: bytes) -> None:
        """The same with a message that is encoded already."""
        if not self.is_open:
            return
        is_waiting = self.has_backlog  # then the socket is full and the loop flushes
        self._outbox += line
        if not is_waiting:
            self.flush()
        if len(self._outbox) > BACKLOG_BYTES:
            self.close()

    def flush(self) -> None:
        """Sends what is queued, as far as the socket takes it."""
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()

    def close(self) -> None:
        """Closes the socket; harmless when repeated."""
        self.is_open = False
        self._outbox.clear()
        self._socket.close()
