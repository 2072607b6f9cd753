"""A proxy on a Unix socket that counts the bytes that a client sends, and can cut it off."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path


class CountingProxy:
    """Passes every connection on to another socket.

    `sent_bytes` counts what clients sent. With `cut_after_bytes` the connection is closed at that
    many bytes, once: as when a cable is pulled in the middle of an upload.
    """

    def __init__(self, path: Path, upstream: Path, *, cut_after_bytes: int | None = None) -> None:
        self.sent_bytes = 0
        self.has_cut = False
        self._upstream = upstream
        self._cut_after_bytes = cut_after_bytes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CountingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._upstream))
                threading.Thread(
                    target=self._pass, args=(client, server, True), daemon=True
                ).start()
                threading.Thread(
                    target=self._pass, args=(server, client, False), daemon=True
                ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_upload: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                if is_upload:
                    self.sent_bytes += len(data)
                    if self._is_due() and not self.has_cut:
                        self.has_cut = True
                        break
                sink.sendall(data)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)

    def _is_due(self) -> bool:
        return self._cut_after_bytes is not None and self.sent_bytes >= self._cut_after_bytes
