"""The container engine's HTTP API over its socket, as far as a run needs it.

Written out because each run starts an interpreter for this: http.client alone takes as long to
import as all requests of a run together, Docker's own library ten times that.
"""

from __future__ import annotations

import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

API = "/v1.41"
MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 16 << 20
ANSWER_LIMIT_S = 120.0


class EngineGone(OSError):
    """The engine does not answer, or has hung up in the middle of an answer."""


class EngineRefused(Exception):
    """The engine's own error: `status` as in HTTP, `message` in its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Connection:
    """One connection, kept for one request after the other."""

    def __init__(self, path: str, limit_s: float | None = ANSWER_LIMIT_S) -> None:
        """Raises EngineGone where nobody listens. `limit_s` bounds each wait; None: for ever."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._inbox = b""
        try:
            self._socket.settimeout(limit_s)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise EngineGone(f"{path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Harmless when repeated."""
        self._socket.close()

    def wait_for_ever(self) -> None:
        """From now on an answer may take as long as it takes."""
        self._socket.settimeout(None)

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON of an answer, None where it has none; EngineRefused for an error."""
        status, headers = self._send(method, path, content)
        body = b"".join(self._body(status, headers))
        value = json.loads(body) if body.strip() else None
        if status >= 400:
            message = value.get("message") if isinstance(value, dict) else None
            raise EngineRefused(status, str(message or body[:500].decode(errors="replace")))
        return value

    def stream(self, path: str) -> Iterator[bytes]:
        """The bytes of an answer as they come. EngineGone where it breaks off."""
        status, headers = self._send("GET", path, None)
        pieces = self._body(status, headers)
        if status >= 400:
            raise EngineRefused(status, b"".join(pieces)[:500].decode(errors="replace"))
        return pieces

    def _send(self, method: str, path: str, content: Any) -> tuple[int, dict[bytes, bytes]]:
        body = b"" if content is None else json.dumps(content).encode()
        head = f"{method} {API}{path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n"
        if content is not None:
            head += "Content-Type: application/json\r\n"
        try:
            self._socket.sendall(head.encode() + b"\r\n" + body)
        except OSError as error:
            raise EngineGone(f"the engine hung up: {error.strerror or error}") from None
        status_line = self._line()
        headers = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        try:
            return int(status_line.split()[1]), headers
        except (IndexError, ValueError):
            raise EngineGone(f"not an answer in HTTP: {status_line[:100]!r}") from None

    def _body(self, status: int, headers: dict[bytes, bytes]) -> Iterator[bytes]:
        if status in (204, 304):
            return
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            while size := self._chunk_size():
                yield from self._bytes(size)
                self._line()
            self._line()
        elif b"content-length" in headers:
            yield from self._bytes(min(int(headers[b"content-length"]), MAX_BODY_BYTES))
        else:  # until the engine hangs up, so that an end and a crash look alike
            while data := self._inbox or self._receive(is_end_allowed=True):
                self._inbox = b""
                yield data

    def _chunk_size(self) -> int:
        line = self._line()
        try:
            return int(line.split(b";")[0], 16)
        except ValueError:
            raise EngineGone(f"not the length of a piece: {line[:100]!r}") from None

    def _bytes(self, count: int) -> Iterator[bytes]:
        while count > 0:
            have = self._inbox or self._receive()
            data, self._inbox = have[:count], have[count:]
            count -= len(data)
            yield data

    def _line(self) -> bytes:
        while b"\r\n" not in self._inbox:
            if len(self._inbox) > MAX_HEAD_BYTES:
                raise EngineGone("the engine's answer has no end of line")
            self._inbox += self._receive()
        line, _, self._inbox = self._inbox.partition(b"\r\n")
        return line

    def _receive(self, *, is_end_allowed: bool = False) -> bytes:
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:  # a wait that took too long among them
            raise EngineGone(f"the engine does not answer: {error.strerror or error}") from None
        if not data and not is_end_allowed:
            raise EngineGone("the engine hung up")
        return data
