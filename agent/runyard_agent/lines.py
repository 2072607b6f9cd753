"""Lines that come over a socket, kept until they are asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

LINE_BYTES = 1 << 20
"""A longer line ends the connection."""


class Lines(asyncio.Protocol):
    """What the other side says, line by line, kept until it is asked for."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._is_over = False
        self._news = asyncio.Event()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self._lines.extend(lines)
            self._news.set()
        elif len(self._rest) > LINE_BYTES and self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._is_over = True
        self._news.set()
        self.closed.set_result(None)

    async def next(self) -> bytes | None:
        """The next whole line; None when the connection is over and there is none left."""
        while not self._lines:
            if self._is_over:
                return None
            self._news.clear()
            await self._news.wait()
        return self._lines.popleft()
