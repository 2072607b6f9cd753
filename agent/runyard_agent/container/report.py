"""What client and ending note in the bundle, and how a container is removed for certain."""

from __future__ import annotations

import json
import os
import stat
import time

from runyard_agent.container.engine import EngineRefused
from runyard_agent.supervisor.holding import AWAY, CONTAINER, HELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runyard_agent.container.engine import Connection

SPEC = "spec.json"
SIGNALS = "signals.fifo"
"""What is written here the container's first process sends to all others."""
FAILED = 125
"""Exit code of a client whose container never ran, as of `docker run`."""
LOST = "container_lost"
"""The reason of an end that is neither the program's nor ours."""
REMOVAL_PAUSE_S = 0.05
REMOVAL_LOOKS = 1200

_KNOWN = (
    (
        ("could not select device driver",),
        "the engine has no GPU runtime",
        "install the NVIDIA container toolkit on the node, restart the engine and submit again",
    ),
    (
        ("is already in use by container",),
        "a container of this attempt is there already, so it is not started a second time",
        "see `docker ps -a --filter label=runyard.run`, then submit again",
    ),
    (
        ("no such image",),
        "the image is no longer on the node",
        "submit again; the image is pulled or built anew",
    ),
    (
        ("bind source path does not exist",),
        "a mounted path does not exist on the node",
        "make it on the node, or correct the environment's mounts",
    ),
    (
        ("network", "not found"),
        "the engine has no such network",
        "see `docker network ls` on the node",
    ),
    (
        ("rlimit",),
        "a ulimit is above what the node allows",
        "lower the --ulimit of the environment, or raise the engine's own limit",
    ),
    (
        ("executable file not found",),
        "the image has no such program",
        "correct the command, or use an image that has the program",
    ),
    (
        ("no such file or directory",),
        "the image has no such program or path",
        "correct the command, or use an image that has the program",
    ),
)
"""Words of the engine, what they mean, and what to do."""


def explained(what: str, why: str) -> tuple[str, str]:
    """A sentence for people, with the engine's own words, and advice.

    No `what`: the engine's refusal to start the container says it all.
    """
    lower = why.lower()
    for words, meaning, advice in _KNOWN:
        if not what and all(word in lower for word in words):
            return f"{meaning} ({why.strip()})", advice
    if why:
        both = f"{what} ({why.strip()})" if what else why.strip()
        return both, "see that the engine runs (`docker info`), submit again"
    return what, "submit again"


def read(bundle: str, name: str) -> dict[str, Any]:
    """A JSON object of the bundle, empty where there is none."""
    try:
        with open(f"{bundle}/{name}", "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def put(bundle: str, content: dict[str, Any]) -> None:
    """Writes `container.json`; on a full disk there is none, and the exit code tells alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(f"{bundle}/{CONTAINER}", flags, 0o600)
        try:
            os.write(fd, json.dumps(content).encode())
        finally:
            os.close(fd)
    except OSError as error:
        os.write(2, f"the end of the container was not noted: {error}\n".encode())


def hold(bundle: str) -> None:
    """From now on there may be a container."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(f"{bundle}/{HELD}", flags, 0o600))


def let_go(bundle: str) -> None:
    """There is no container any more. Takes no room on the disk; harmless when repeated."""
    try:
        os.unlink(f"{bundle}/{HELD}")
    except FileNotFoundError:
        pass


def engine_is_away(bundle: str) -> None:
    """Nothing is heard of the container until the engine is back. Harmless when repeated."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        os.close(os.open(f"{bundle}/{AWAY}", flags, 0o600))
    except OSError:
        pass  # it only tells people


def engine_is_back(bundle: str) -> None:
    """The engine answers again. Harmless when repeated."""
    try:
        os.unlink(f"{bundle}/{AWAY}")
    except OSError:
        pass


def open_signals(bundle: str) -> int:
    """Makes the FIFO of signals, which the container has mounted, and opens it."""
    path = f"{bundle}/{SIGNALS}"
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def remove(connection: Connection, name: str) -> None:
    """Kills and removes a container; returns when the engine knows it no more.

    EngineGone and EngineRefused: it may be there still.
    """
    for _ in range(REMOVAL_LOOKS):
        try:
            connection.ask("DELETE", f"/containers/{name}?force=1&v=1")
        except EngineRefused as error:
            if error.status == 404:
                return
            if error.status != 409:  # its removal is in progress already
                raise
            time.sleep(REMOVAL_PAUSE_S)
        else:
            return
    raise EngineRefused(409, f"{name} is being removed for a minute, without end")
