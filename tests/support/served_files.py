"""Files over HTTP, which clients are told to remember: what a package index is to an installer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Remembered(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served_for_an_hour(folder: Path) -> Iterator[str]:
    """Serves a folder on loopback; gives its URL. Answers say that they are good for an hour."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Remembered, directory=str(folder)))
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
