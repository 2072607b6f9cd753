"""Environments that are container images: named ones, fetched where they are missing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from runyard_agent.environments.builds import seconds_since
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.diagnosis import Fault
from runyard_agent.environments.docker_api import DockerApi, find_socket
from runyard_agent.environments.docker_calls import ask_engine
from runyard_agent.environments.docker_diagnosis import gone_image, wrong_architecture
from runyard_agent.environments.docker_lock import (
    ContainerLock,
    Pin,
    node_platform,
    pin_of,
    read_lock,
    write_lock,
)
from runyard_agent.environments.docker_probe import Inside, Probes, variables
from runyard_agent.environments.lock import lock_for, make_lock
from runyard_agent.environments.protocol import (
    Container,
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock, EnvironmentSpec

PROBES_NAME = "images.json"


class DockerBuilder:
    """Provides container images of the engine of this node.

    Args:
        cache: in whose folder it is remembered what images hold.
        environ: the agent's variables; DOCKER_HOST and the user's `docker login` count.
    """

    kind = "docker"

    def __init__(self, cache: EnvironmentCache, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._cache = cache
        self._probes = Probes(cache.root / PROBES_NAME)
        self._working: SharedWork[Any] = SharedWork(
            "image", "Another run needs the same image; waiting for it."
        )

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. For an image seen before the engine is asked one question."""
        listener = Listener(log, progress)
        _refuse_what_is_not_served(spec.docker)
        api = DockerApi(find_socket(self._environ))
        platform = node_platform()
        lock = lock_for(platform, locks)
        if lock is None:

            async def resolve(audience: Audience) -> EnvironmentLock:
                return await self._resolve(api, spec.docker.image, platform, audience)

            key = f"{api.socket} {spec.SerializeToString(deterministic=True).hex()}"
            lock = await self._working.do(key, resolve, listener)
        (pin,) = read_lock(lock.text).bases
        found = await self._exact(api, pin, listener)
        inside = await self._look(api, pin, found, spec.docker, listener)
        return _provided(api, spec.docker, found, inside, lock)

    async def _resolve(
        self, api: DockerApi, reference: str, platform: str, audience: Audience
    ) -> EnvironmentLock:
        """Finds the image that a reference stands for, fetching it where it is not here."""
        found = await api.image(reference)
        if found is None:
            await self._pull(api, reference, audience)
            found = await api.image(reference)
        if found is None:
            raise _telling(audience, gone_image(reference, reference))
        await _check_architecture(api, reference, found, audience)
        pin = pin_of(reference, found)
        lock = make_lock(platform, write_lock(ContainerLock((pin,))), time.time_ns())
        audience.say(f"Image {shown(reference)} is {pin.exact}, lock {lock.hash[:16]}.")
        return lock

    async def _exact(self, api: DockerApi, pin: Pin, listener: Listener) -> Mapping[str, Any]:
        """The image of a lock, which is fetched where it is not here."""
        found = await api.image(pin.exact)
        if found is not None:
            return found

        async def fetch(audience: Audience) -> Mapping[str, Any]:
            if pin.digest:
                await self._pull(api, pin.digest, audience)
            fetched = await api.image(pin.exact)
            if fetched is None:
                raise _telling(audience, gone_image(pin.reference, pin.image))
            await _check_architecture(api, pin.reference, fetched, audience)
            return fetched

        fetched: Mapping[str, Any] = await self._working.do(
            f"{api.socket} {pin.exact}", fetch, listener
        )
        return fetched

    async def _pull(self, api: DockerApi, reference: str, audience: Audience) -> None:
        """Fetches an image; EnvironmentFailed where that is not possible."""
        began_s = time.monotonic()
        audience.progress(f"fetching image {shown(reference)}")
        audience.say(f"Image {shown(reference)} is not on this node; fetching it.")
        request = {"action": "pull", "reference": reference}
        try:
            await ask_engine(api.socket, request, self._environ, audience.write)
        except EnvironmentFailed as failed:
            audience.say(f"Failed: {failed.message}")
            raise
        audience.say(f"Fetched in {seconds_since(began_s)}.")

    async def _look(
        self,
        api: DockerApi,
        pin: Pin,
        found: Mapping[str, Any],
        options: DockerImage,
        listener: Listener,
    ) -> Inside:
        """What the image holds, looked at only once."""
        image, interpreter = str(found["Id"]), options.interpreter_path
        known = self._probes.known(image, interpreter)
        if known is not None:
            return known

        async def look(audience: Audience) -> Inside:
            audience.progress(f"looking into image {shown(pin.reference)}")
            return await self._probes.look(api, image, interpreter, pin.reference)

        inside: Inside = await self._working.do(
            f"{api.socket} {image} {interpreter}", look, listener
        )
        return inside


def _provided(
    api: DockerApi,
    options: DockerImage,
    found: Mapping[str, Any],
    inside: Inside,
    lock: EnvironmentLock,
) -> ProvidedEnvironment:
    """What the executor is told of an image."""
    env = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in variables(found).items()
    }
    container = Container(api.socket, str(found["Id"]), inside.shell, options)
    python = inside.python.encode("utf-8", "surrogateescape")
    return ProvidedEnvironment(python=python, env=env, lock=lock, container=container)


async def _check_architecture(
    api: DockerApi, reference: str, found: Mapping[str, Any], audience: Audience
) -> None:
    """Raises EnvironmentFailed for an image that the engine can't run."""
    engine = (await api.call("GET", "/version")).json() or {}
    of_image = f"{found.get('Os') or 'linux'}/{found.get('Architecture') or engine.get('Arch')}"
    of_engine = f"{engine.get('Os')}/{engine.get('Arch')}"
    if of_image != of_engine:
        raise _telling(audience, wrong_architecture(reference, of_image, of_engine))


def _telling(audience: Audience, fault: Fault) -> EnvironmentFailed:
    """The error for a fault, which the log gets too."""
    audience.say(f"Failed: {fault.message}")
    return EnvironmentFailed(fault.message, fault.advice, fault.metadata)


def _refuse_what_is_not_served(options: DockerImage) -> None:
    """Raises EnvironmentFailed for packages on top, and for a Dockerfile."""
    asked = "dockerfile" if options.dockerfile else options.WhichOneof("packages")
    if asked is not None:
        raise EnvironmentFailed(
            f"docker.{asked} is not served yet",
            "build the image with `docker build` on the node and name it",
            {"field": f"docker.{asked}"},
        )
