"""What is inside an image: Python, shell and variables. Each image is looked at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runyard_agent.environments.docker_api import Answer, DockerApi
from runyard_agent.environments.docker_work import work_labels, worker_labels
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_contract.paths import atomic_write, shown

START_LIMIT_S = 60.0
KEPT_LIMIT = 256
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = "/bin/sh"
_PYTHONS = ("python3", "python")
_ASK = (
    "import json, sys; print('runyard' + json.dumps([sys.executable, '%d.%d.%d' %"
    " sys.version_info[:3]]))"
)
_MARK = "runyard["
_NOT_THERE = ("executable file not found", "no such file or directory", "not a directory")


@dataclass(frozen=True, slots=True)
class Inside:
    """What an image holds.

    Args:
        python: absolute path of its interpreter. Empty: it has none.
        version: of that Python, such as "3.11.7".
        shell: path of its sh. Empty: it has none.
    """

    python: str
    version: str
    shell: str


class Probes:
    """Looks into images, and remembers what it saw in the file `path`.

    A damaged file only costs that images are looked at again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, Inside] | None = None

    def known(self, image: str, interpreter: str) -> Inside | None:
        """What was seen in an image before, with this interpreter asked for."""
        return self._remembered().get(_key(image, interpreter))

    async def look(self, api: DockerApi, image: str, interpreter: str, name: str) -> Inside:
        """Looks into an image by starting its Python once, without network.

        Args:
            image: its id.
            interpreter: the one asked for; empty: python3, else python, else none.
            name: of the image, for errors.

        Raises EnvironmentFailed where the interpreter that was asked for does not work.
        """
        known = self.known(image, interpreter)
        if known is not None:
            return known
        if not self._path.exists():
            self._write({})  # from now on there may be something of ours in the engine
        labels = {**work_labels(self._path.parent), **worker_labels()}
        shell = await _shell(api, image, labels)
        python, version = "", ""
        for candidate in [interpreter] if interpreter else _PYTHONS:
            why, python, version = await _ask(api, image, candidate, labels)
            if python:
                break
            if interpreter:
                raise EnvironmentFailed(
                    f"the interpreter {shown(interpreter)} {why} in image {shown(name)}",
                    "set interpreter_path to a Python of the image, or leave it empty",
                    {"interpreter": shown(interpreter), "image": shown(name)},
                )
        inside = Inside(python, version, shell)
        self._keep(_key(image, interpreter), inside)
        return inside

    def _remembered(self) -> dict[str, Inside]:
        if self._kept is None:
            try:
                kept = json.loads(self._path.read_bytes())
                self._kept = {key: Inside(**fields) for key, fields in kept.items()}
            except (OSError, ValueError, TypeError, AttributeError):
                self._kept = {}
        return self._kept

    def _keep(self, key: str, inside: Inside) -> None:
        kept = self._remembered()
        kept[key] = inside
        while len(kept) > KEPT_LIMIT:
            del kept[next(iter(kept))]
        self._write(kept)

    def _write(self, kept: Mapping[str, Inside]) -> None:
        content = {key: asdict(one) for key, one in kept.items()}
        with contextlib.suppress(OSError):  # looked at again after a restart
            atomic_write(self._path, json.dumps(content, indent=1).encode() + b"\n")


def variables(found: Mapping[str, Any]) -> dict[str, str]:
    """The variables that an image sets, PATH always among them."""
    pairs = (str(one).partition("=") for one in (found.get("Config") or {}).get("Env") or ())
    env = {name: value for name, equals, value in pairs if equals}
    return {"PATH": DEFAULT_PATH, **env}


@contextlib.asynccontextmanager
async def created(
    api: DockerApi, image: str, command: Sequence[str], labels: Mapping[str, str]
) -> AsyncIterator[str]:
    """A container of an image that is not started yet, and is removed at the end."""
    request = {
        "Image": image,
        "Entrypoint": list(command[:1]),
        "Cmd": list(command[1:]),
        "Env": ["PYTHONDONTWRITEBYTECODE=1"],
        "Labels": labels,
        "Tty": True,  # the log is plain text then
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none"},
    }
    creating = asyncio.create_task(api.call("POST", "/containers/create", request))
    try:
        answer = await asyncio.shield(creating)
        if not answer.is_ok:
            raise _refused(answer)
        yield str(answer.json()["Id"])
    finally:  # also of one that the engine was still making when this was cancelled
        answer = await creating
        if answer.is_ok:
            await api.call("DELETE", f"/containers/{answer.json()['Id']}?force=1&v=1")


async def _shell(api: DockerApi, image: str, labels: Mapping[str, str]) -> str:
    """Path of the image's sh, found without starting it."""
    async with created(api, image, [SHELL], labels) as container:
        head = await api.call("HEAD", f"/containers/{container}/archive?path={quote(SHELL)}")
    return SHELL if head.is_ok else ""


async def _ask(
    api: DockerApi, image: str, interpreter: str, labels: Mapping[str, str]
) -> tuple[str, str, str]:
    """Starts an interpreter: why it does not work, or its path and version."""
    async with created(api, image, [interpreter, "-c", _ASK], labels) as container:
        started = await api.call("POST", f"/containers/{container}/start")
        if not started.is_ok:
            if any(words in started.message for words in _NOT_THERE):
                return "does not exist", "", ""
            return f"can't be started ({_last_line(started.message)})", "", ""
        try:
            ended = await api.call("POST", f"/containers/{container}/wait", limit_s=START_LIMIT_S)
        except EnvironmentFailed as failed:
            if "in time" not in failed.message:
                raise
            return f"did not start within {START_LIMIT_S:.0f} s", "", ""
        log = await api.call("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    said = log.body.decode("utf-8", "replace")
    _before, mark, answer = said.rpartition(_MARK)
    with contextlib.suppress(ValueError, TypeError):
        executable, version = json.loads(f"[{answer}") if mark else (None, None)
        if version:
            return "", executable or interpreter, version
    code = (ended.json() or {}).get("StatusCode")
    return f"is no working Python: {_last_line(said) or f'it ended with {code}'}", "", ""


def _refused(answer: Answer) -> EnvironmentFailed:
    """The error for a container that can't be made."""
    return EnvironmentFailed(
        f"the Docker engine can't make a container: {_last_line(answer.message)}",
        "see the engine's log (journalctl -u docker); `docker system df` shows its disk",
    )


def _last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:600] if lines else ""


def _key(image: str, interpreter: str) -> str:
    return f"{image} {interpreter}".rstrip()
