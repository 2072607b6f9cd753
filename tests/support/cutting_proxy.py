"""A proxy on a Unix socket that closes each connection after some bytes, wherever that falls."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path


class _Budget:
    """The bytes that a connection may still carry, in both directions together."""

    def __init__(self, left_bytes: int) -> None:
        self.is_cut = False
        self._left_bytes = left_bytes
        self._lock = threading.Lock()

    def take(self, size: int) -> int:
        """How many of so many bytes may pass."""
        with self._lock:
            granted = min(size, self._left_bytes)
            self._left_bytes -= granted
        return granted


class CuttingProxy:
    """Passes connections on to another socket until each has used up its bytes.

    Args:
        path: of the proxy's own socket, in a folder that nobody else can enter.
        upstream: where connections are passed on to; may be missing for a while.
        next_budget_bytes: how many bytes the next connection may carry.
    """

    def __init__(self, path: Path, upstream: Path, next_budget_bytes: Callable[[], int]) -> None:
        self.cuts = 0
        self._upstream = upstream
        self._next_budget_bytes = next_budget_bytes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._upstream))
                except OSError:
                    client.close()
                    server.close()
                    continue
                budget = _Budget(self._next_budget_bytes())
                for source, sink in ((client, server), (server, client)):
                    arguments = (source, sink, budget)
                    threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: _Budget) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                granted = budget.take(len(data))
                sink.sendall(data[:granted])
                if granted < len(data):
                    self.cuts += not budget.is_cut
                    budget.is_cut = True
                    break
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
