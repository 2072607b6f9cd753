"""A container registry on loopback, which gives images that a test has made of bytes.

An engine takes plain HTTP from 127.0.0.0/8, so that it pulls from here as from any other.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runyard_agent.environments.docker_lock import node_platform
from support.docker_engine import DockerEngine

FOREIGN = "s390x"
"""An architecture that no machine has that runs these tests."""
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """What a running registry holds, and how it treats who asks.

    login: "user:password" that is asked for. Empty: everybody may fetch.
    cuts: how many answers with a layer still break off half way.
    stalled: while set, layers stop half way until `go_on`.
    """

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.login = ""
        self.cuts = 0
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.requests: list[str] = []
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[str, tuple[str, bytes]] = {}

    def add(self, name: str, files: Mapping[str, bytes], *, architecture: str = "") -> str:
        """Makes an image of executable files, "repository:tag", and gives its digest."""
        own = node_platform().partition("/")[2]
        digest, _ = self._add(name, files, architecture or own)
        return digest

    def add_list(self, name: str, files: Mapping[str, bytes], architectures: list[str]) -> str:
        """The same for several architectures under one name; gives the digest of the list."""
        repository = name.partition(":")[0]
        listed = []
        for architecture in architectures:
            digest, size = self._add(f"{repository}:", files, architecture)
            platform = {"architecture": architecture, "os": "linux"}
            listed.append(
                {"mediaType": _MANIFEST, "digest": digest, "size": size, "platform": platform}
            )
        content = {"schemaVersion": 2, "mediaType": _LIST, "manifests": listed}
        return self._keep_manifest(name, _LIST, content)[0]

    def blob(self, digest: str) -> bytes | None:
        """A blob; None where there is none."""
        return self._blobs.get(digest)

    def manifest(self, repository: str, reference: str) -> tuple[str, bytes] | None:
        """Media type and bytes of a manifest, by tag or digest."""
        return self._manifests.get(f"{repository}@{reference}")

    def lets_in(self, authorization: str) -> bool:
        """Whether who asks may have it."""
        wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
        return not self.login or authorization == wanted

    def _add(self, name: str, files: Mapping[str, bytes], architecture: str) -> tuple[str, int]:
        layer = _layer(files)
        packed = gzip.compress(layer, 1, mtime=0)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "a test"}],
        }
        content = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._keep_blob(_CONFIG, json.dumps(config).encode()),
            "layers": [self._keep_blob(_LAYER, packed)],
        }
        return self._keep_manifest(name, _MANIFEST, content)

    def _keep_blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = _digest(data)
        self._blobs[digest] = data
        return {"mediaType": media_type, "size": len(data), "digest": digest}

    def _keep_manifest(self, name: str, media_type: str, content: Any) -> tuple[str, int]:
        repository, _, tag = name.partition(":")
        data = json.dumps(content).encode()
        digest = _digest(data)
        for reference in (tag, digest):
            self._manifests[f"{repository}@{reference}"] = media_type, data
        return digest, len(data)


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    """A registry that serves for as long as the block runs."""

    class Handler(_Handler):
        of: Registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Handler.of = Registry(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="registry")
    thread.start()
    try:
        yield served
    finally:
        served.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


def remove_pulled(engine: DockerEngine, served: Registry) -> None:
    """Removes what an engine has pulled from a registry."""
    found = engine.docker("images", "-q", "--no-trunc", f"{served.host}/*/*").stdout
    if found:
        engine.docker("rmi", "-f", *set(found.split()), check=False)


class _Handler(BaseHTTPRequestHandler):
    """The half of the distribution protocol that fetches."""

    protocol_version = "HTTP/1.1"
    of: Registry

    def do_HEAD(self) -> None:
        """What is asked for, without its bytes."""
        self._answer()

    def do_GET(self) -> None:
        """What is asked for."""
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing; `requests` has it."""

    def _answer(self) -> None:
        self.of.requests.append(f"{self.command} {self.path}")
        if not self.of.lets_in(self.headers.get("Authorization", "")):
            self._refuse(401, "UNAUTHORIZED", "authentication required")
            return
        head, _, reference = self.path.rpartition("/")
        repository = head.removeprefix("/v2/").rpartition("/")[0]
        if self.path == "/v2/":
            self._send("application/json", b"{}")
        elif head.endswith("/manifests"):
            manifest = self.of.manifest(repository, reference)
            if manifest is None:
                self._refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            else:
                self._send(*manifest)
        else:
            blob = self.of.blob(reference)
            if blob is None:
                self._refuse(404, "BLOB_UNKNOWN", "blob unknown")
            else:
                self._send("application/octet-stream", blob, is_blob=True)

    def _send(self, media_type: str, data: bytes, *, is_blob: bool = False) -> None:
        given = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        first = int(given or 0)
        self.send_response(206 if given else 200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data) - first))
        if given:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Docker-Content-Digest", _digest(data))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = first + (len(data) - first) // 2
        self.wfile.write(data[first:half])
        self.wfile.flush()
        is_layer = is_blob and data[:2] == b"\x1f\x8b"
        if is_layer and self.of.cuts > 0:
            self.of.cuts -= 1
            self.close_connection = True
            return
        if is_layer and self.of.stalled.is_set():
            self.of.go_on.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was cancelled
            self.wfile.write(data[half:])

    def _refuse(self, status: int, code: str, message: str) -> None:
        data = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def fresh_file(size_bytes: int = 1 << 16) -> bytes:
    """A file that no layer has yet and that can't be made smaller."""
    return os.urandom(size_bytes)


def _layer(files: Mapping[str, bytes]) -> bytes:
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return to.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
