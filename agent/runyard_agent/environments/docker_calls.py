"""Long calls of a Docker engine, through the SDK, in a process of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from runyard_agent.environments.diagnosis import Fault
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.environments.docker_diagnosis import explain
from runyard_agent.environments.programs import run_program
from runyard_agent.environments.protocol import EnvironmentFailed

PROGRAM = "runyard_agent.environments.docker_program"

Hear = Callable[[bytes], None]


async def ask_engine(
    socket: str,
    request: Mapping[str, Any],
    environ: Mapping[str, str],
    hear: Hear,
    kept_fds: Sequence[int] = (),
    explained: Callable[[Mapping[str, Any]], Fault] = explain,
) -> Mapping[str, Any]:
    """What the SDK answers to a request; EnvironmentFailed for a fault that it tells of.

    When cancelled the process is killed first, and with its connection the engine ends the work.

    Args:
        socket: path of the engine's socket.
        request: "action", a name of `docker_program.ACTIONS`, with its values.
        environ: variables; HOME says whose `docker login` counts.
        hear: gets what people may read.
        kept_fds: descriptors that the process inherits.
        explained: puts a fault into words.
    """
    if importlib.util.find_spec("docker") is None:
        raise EnvironmentFailed(
            "the docker package, which talks to the Docker engine, is not in the agent's"
            " environment",
            "install it with `pip install 'runyard[docker]'` into the environment that runyard is"
            " installed in",
            {"package": "docker"},
        )
    outcome = await run_program(
        (sys.executable, "-P", "-m", PROGRAM),
        given=json.dumps({**request, "socket": socket}),
        hear=hear,
        env=environ,
        kept_fds=kept_fds,
    )
    if outcome.returncode != 0:
        said = outcome.said.strip().rpartition("\n")[2] or f"it ended with {outcome.returncode}"
        fault = explain({"kind": "broken", "said": said})
    else:
        answer: Mapping[str, Any] = json.loads(outcome.answer)
        if "fault" not in answer:
            return answer
        fault = explained(answer["fault"])
    raise EnvironmentFailed(fault.message, fault.advice, fault.metadata)


async def ask_in_container(
    api: DockerApi,
    request: Mapping[str, Any],
    environ: Mapping[str, str],
    hear: Hear,
    kept_fds: Sequence[int] = (),
) -> Mapping[str, Any]:
    """As `ask_engine`, for work in containers named after the request; none of them is left."""
    try:
        return await ask_engine(api.socket, request, environ, hear, kept_fds)
    except BaseException:  # the process that would remove them may have been killed
        await asyncio.shield(_remove_containers(api, str(request["name"])))
        raise


async def _remove_containers(api: DockerApi, name: str) -> None:
    """Removes the containers that a build of this name may have left."""
    for one in (name, f"{name}-image"):
        try:
            await api.call("DELETE", f"/containers/{quote(one)}?force=1&v=1")
        except EnvironmentFailed:
            return  # the engine is gone
