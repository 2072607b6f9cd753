"""A registry of images on loopback, as far as an engine needs one to fetch from."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.docker_engine import DockerEngine

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class ImageRegistry:
    """A registry with one repository. `address` is what its references begin with."""

    def __init__(self) -> None:
        self.address = ""
        self._blobs: dict[str, tuple[str, bytes]] = {}
        self._tags: dict[str, str] = {}

    def publish(
        self, engine: DockerEngine, image: str, tag: str, folder: Path, **labels: str
    ) -> str:
        """Gives an image of the engine out as `tag`, with labels; returns its digest."""
        engine.docker("save", "-o", str(folder / "image.tar"), image)
        with tarfile.open(folder / "image.tar") as tar:

            def read(name: str) -> bytes:
                member = tar.extractfile(name)
                assert member is not None
                return member.read()

            (saved,) = json.loads(read("manifest.json"))
            config = json.loads(read(saved["Config"]))
            layers = [gzip.compress(read(name), mtime=0) for name in saved["Layers"]]
        config["config"]["Labels"] = labels
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._keep(_CONFIG, json.dumps(config).encode()),
            "layers": [self._keep(_LAYER, layer) for layer in layers],
        }
        self._tags[tag] = self._keep(_MANIFEST, json.dumps(manifest).encode())["digest"]
        return self._tags[tag]

    def _keep(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = (media_type, data)
        return {"mediaType": media_type, "size": len(data), "digest": digest}

    def found(self, path: str) -> tuple[str, str, bytes] | None:
        """Digest, kind and bytes of what a path names."""
        name = path.rpartition("/")[2]
        digest = self._tags.get(name, name)
        known = self._blobs.get(digest)
        return (digest, *known) if known else None


@contextlib.contextmanager
def image_registry() -> Iterator[ImageRegistry]:
    """Serves an empty registry."""
    registry = ImageRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            is_greeting = self.path.rstrip("/") == "/v2"
            found = ("", "application/json", b"{}") if is_greeting else registry.found(self.path)
            digest, media_type, data = found or ("", "application/json", b'{"errors": []}')
            self.send_response(200 if found else 404)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Docker-Content-Digest", digest)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.address = f"127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
