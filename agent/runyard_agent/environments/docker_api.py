"""Short questions to a Docker engine on this node, over its unix socket and without the SDK.

The SDK takes a tenth of a second to load; who asks whether an image is there waits a millisecond.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runyard_agent.environments.docker_permission import not_permitted
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_contract.paths import shown

DEFAULT_HOST = "unix:///var/run/docker.sock"
CALL_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine answered: HTTP status and body."""

    status: int
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether the engine did what it was asked for."""
        return 200 <= self.status < 400

    def json(self) -> Any:
        """The body; None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def message(self) -> str:
        """What the engine says of a failure."""
        told = self.json()
        if isinstance(told, dict) and isinstance(told.get("message"), str):
            return str(told["message"]).strip()
        return self.body.decode("utf-8", "replace").strip() or f"HTTP status {self.status}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, limit_s: float) -> None:
        super().__init__("docker", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerApi:
    """Calls of the engine behind a unix socket; raises EnvironmentFailed where there is none."""

    def __init__(self, path: str) -> None:
        self.socket = path

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        limit_s: float = CALL_LIMIT_S,
    ) -> Answer:
        """One request; the answer whatever its status is."""
        return await asyncio.to_thread(self._call, method, path, body, limit_s)

    async def image(self, reference: str) -> Mapping[str, Any] | None:
        """What the engine knows of an image; None where it has none of this name or id."""
        answer = await self.call("GET", f"/images/{quote(reference, safe='/:@')}/json")
        if answer.is_ok:
            found: Mapping[str, Any] = answer.json()
            return found
        if answer.status in (400, 404):
            return None
        raise EnvironmentFailed(
            f"the Docker engine can't tell of image {shown(reference)}: {answer.message}",
            "see the engine's log (journalctl -u docker)",
            {"image": shown(reference)},
        )

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float
    ) -> Answer:
        connection = _UnixConnection(self.socket, limit_s)
        content = None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except OSError as error:
            raise self._unreachable(error) from None
        except http.client.HTTPException:
            raise engine_gone(self.socket) from None
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> EnvironmentFailed:
        """The error for an engine that can't be asked."""
        path = shown(self.socket)
        metadata = {"socket": path}
        if isinstance(error, PermissionError):
            return not_permitted(self.socket)
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return EnvironmentFailed(
                f"no Docker engine answers at {path}",
                "start it (`sudo systemctl start docker`) or install Docker; another one is named"
                " by DOCKER_HOST where runyard is started",
                metadata,
            )
        if isinstance(error, TimeoutError):
            return EnvironmentFailed(
                f"the Docker engine at {path} did not answer in time",
                "see whether `docker info` answers; restart the engine if not",
                metadata,
            )
        return engine_gone(self.socket)


def engine_gone(path: str) -> EnvironmentFailed:
    """The error for an engine that ended, or closed the connection, while it was asked."""
    return EnvironmentFailed(
        f"the Docker engine at {shown(path)} went away in the middle of the work",
        "see why it ended (journalctl -u docker), start it and submit again",
        {"socket": shown(path)},
    )


def find_socket(environ: Mapping[str, str]) -> str:
    """Path of the engine's socket: of DOCKER_HOST, of docker's context, else the usual one.

    Raises EnvironmentFailed for an engine that is not on this node.
    """
    host = environ.get("DOCKER_HOST") or _host_of_context(environ) or DEFAULT_HOST
    scheme, _, path = host.partition("://")
    if scheme != "unix" or not path.startswith("/"):
        raise EnvironmentFailed(
            f"the Docker engine at {shown(host)} is not behind a unix socket of this node",
            "set DOCKER_HOST to unix:///var/run/docker.sock where runyard is started: jobs share"
            " folders with the node, so that only an engine on it can run them",
            {"host": shown(host)},
        )
    return path


def _host_of_context(environ: Mapping[str, str]) -> str:
    """The engine of docker's chosen context; empty: there is none, or it is the default one."""
    home = environ.get("HOME") or os.path.expanduser("~")
    folder = Path(environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"))
    try:
        name = environ.get("DOCKER_CONTEXT") or _read(folder / "config.json")["currentContext"]
        key = hashlib.sha256(name.encode()).hexdigest()
        return str(
            _read(folder / "contexts" / "meta" / key / "meta.json")["Endpoints"]["docker"]["Host"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())
