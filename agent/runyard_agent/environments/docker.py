"""Environments that are container images: named ones, and those that a Dockerfile makes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from runyard_agent import journal
from runyard_agent.environments.builds import Builds, Contents
from runyard_agent.environments.cache import KEY_DIGITS, EnvironmentCache
from runyard_agent.environments.docker_api import DockerApi, find_socket
from runyard_agent.environments.docker_calls import ask_engine
from runyard_agent.environments.docker_diagnosis import explain_build, no_context
from runyard_agent.environments.docker_images import Images, telling
from runyard_agent.environments.docker_lock import (
    ContainerLock,
    node_platform,
    read_lock,
    write_lock,
)
from runyard_agent.environments.docker_probe import Inside, Probes, variables
from runyard_agent.environments.dockerfile import bases, copying, with_bases
from runyard_agent.environments.lock import lock_for, make_lock
from runyard_agent.environments.protocol import (
    BuildContext,
    Container,
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyard_contract.digest import digest_bytes
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock, EnvironmentSpec

PROBES_NAME = "images.json"
REPOSITORY = "runyard/environment"
LABEL = "dev.runyard.environments"
"""On each image that is built: the folder of the environments that it belongs to."""


class DockerBuilder:
    """Provides container images of the engine of this node.

    Args:
        cache: where it is noted what is built, and remembered what images hold.
        environ: the agent's variables; DOCKER_HOST and the user's `docker login` count.
    """

    kind = "docker"

    def __init__(self, cache: EnvironmentCache, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._cache = cache
        self._builds = Builds(cache)
        self._probes = Probes(cache.root / PROBES_NAME)
        self._working: SharedWork[Any] = SharedWork(
            "image", "Another run needs the same image; waiting for it."
        )
        cache.cleaners.append(self._remove_unwanted)

    def needs_context(self, spec: EnvironmentSpec) -> bool:
        """Whether the Dockerfile copies files."""
        return copying(spec.docker.dockerfile) is not None

    def within(self, context: BuildContext) -> _InContext:
        """The builder for a run with this snapshot."""
        return _InContext(self, context)

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. For an image seen before the engine is asked one question."""
        return await self.provide_with(None, spec, locks, Listener(log, progress))

    async def provide_with(
        self,
        context: BuildContext | None,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        listener: Listener,
    ) -> ProvidedEnvironment:
        """The same with the files that a Dockerfile may copy."""
        _refuse_packages(spec.docker)
        api = DockerApi(find_socket(self._environ))
        platform = node_platform()
        lock = lock_for(platform, locks)
        if lock is None:

            async def resolve(audience: Audience) -> EnvironmentLock:
                return await self._resolve(api, spec.docker, platform, audience)

            key = f"{api.socket} {spec.SerializeToString(deterministic=True).hex()}"
            lock = await self._working.do(key, resolve, listener)
        built_as = ""
        if spec.docker.dockerfile:
            built_as = _built_as(spec.docker, lock, context)
            found = await self._built(api, built_as, spec.docker, lock, context, listener)
            self._cache.used(built_as)
        else:
            found = await self._named(api, lock, listener)
        inside = await self._look(api, found, spec.docker, listener)
        return _provided(api, spec.docker, found, inside, lock, built_as)

    async def _resolve(
        self, api: DockerApi, options: DockerImage, platform: str, audience: Audience
    ) -> EnvironmentLock:
        """Finds the images that it is made of."""
        images = Images(api, self._environ)
        text = options.dockerfile
        references = bases(text) if text else [options.image]
        pins = [await images.resolve(one, audience) for one in references]
        digest = digest_bytes(text.encode()) if text else ""
        lock = make_lock(platform, write_lock(ContainerLock(tuple(pins), digest)), time.time_ns())
        audience.say(f"Resolved: lock {lock.hash[:16]}.")
        return lock

    async def _named(
        self, api: DockerApi, lock: EnvironmentLock, listener: Listener
    ) -> Mapping[str, Any]:
        """The image of a lock, which is fetched where it is not here."""
        (pin,) = read_lock(lock.text).bases
        found = await api.image(pin.exact)
        if found is None:

            async def fetch(audience: Audience) -> Mapping[str, Any]:
                return await Images(api, self._environ).exact(pin, audience)

            found = await self._working.do(f"{api.socket} {pin.exact}", fetch, listener)
        return dict(found or {})

    async def _built(
        self,
        api: DockerApi,
        key: str,
        options: DockerImage,
        lock: EnvironmentLock,
        context: BuildContext | None,
        listener: Listener,
    ) -> Mapping[str, Any]:
        """The image of a Dockerfile, built where it is not here any more."""

        async def fill(audience: Audience, lock_fd: int) -> Contents:
            return await self._fill(api, key, options, lock, context, audience, lock_fd)

        as_built = EnvironmentLock(platform=lock.platform, hash=key)
        record = self._cache.ready(key)
        if record is not None and await api.image(record.image) is None:
            listener.log.write(b"The image was removed from the engine; building it again.\n")
            await self._cache.discard(key)
        await self._builds.ensure(as_built, fill, listener)
        record = self._cache.ready(key)
        found = await api.image(record.image) if record is not None else None
        if found is None:
            raise EnvironmentFailed(
                "the image was removed from the engine as soon as it was built", "submit again"
            )
        return found

    async def _fill(
        self,
        api: DockerApi,
        key: str,
        options: DockerImage,
        lock: EnvironmentLock,
        context: BuildContext | None,
        audience: Audience,
        lock_fd: int,
    ) -> Contents:
        """Builds the image on exactly the bases of the lock."""
        copied = copying(options.dockerfile)
        if copied is not None and context is None:
            raise telling(audience, no_context(copied))
        images = Images(api, self._environ)
        found = {pin: await images.exact(pin, audience) for pin in read_lock(lock.text).bases}
        exact = {pin.reference: pin.exact for pin in found}
        tag = f"{REPOSITORY}:{key[:KEY_DIGITS]}"
        audience.say(f"Building image {tag} from the Dockerfile.")
        audience.progress("building the image")
        self._cache.folder(key).mkdir()
        request = {
            "action": "build",
            "dockerfile": with_bases(options.dockerfile, exact),
            "folder": context.folder if context is not None and copied is not None else None,
            "tag": tag,
            "labels": {LABEL: str(self._cache.root)},
            "network": options.network,
        }
        try:
            answer = await ask_engine(
                api.socket,
                request,
                self._environ,
                audience.write,
                (lock_fd,),
                lambda fault: explain_build(fault, options.dockerfile),
            )
        except EnvironmentFailed as failed:
            audience.say(f"Failed: {failed.message}")
            raise
        image = await api.image(answer["image"]) or {}
        size_bytes = _own_bytes(image, list(found.values()))
        return Contents("", 0, image=str(answer["image"]), size_bytes=max(1, size_bytes))

    async def _look(
        self, api: DockerApi, found: Mapping[str, Any], options: DockerImage, listener: Listener
    ) -> Inside:
        """What the image holds, looked at only once."""
        image, interpreter = str(found["Id"]), options.interpreter_path
        known = self._probes.known(image, interpreter)
        if known is not None:
            return known
        name = options.image or "of the Dockerfile"

        async def look(audience: Audience) -> Inside:
            audience.progress("looking into the image")
            return await self._probes.look(api, image, interpreter, name)

        inside: Inside = await self._working.do(
            f"{api.socket} {image} {interpreter}", look, listener
        )
        return inside

    async def _remove_unwanted(self) -> None:
        """Removes the images of environments that made room for others, or were never finished."""
        if not (self._cache.root / PROBES_NAME).exists():
            return  # no image was ever provided here
        try:
            api = DockerApi(find_socket(self._environ))
            filters = quote(json.dumps({"label": [f"{LABEL}={self._cache.root}"]}))
            answer = await api.call("GET", f"/images/json?filters={filters}")
            for image in (answer.json() or ()) if answer.is_ok else ():
                for tag in image.get("RepoTags") or ():
                    key = tag.removeprefix(f"{REPOSITORY}:")
                    if key != tag and not self._cache.is_wanted(key):
                        await api.call("DELETE", f"/images/{quote(tag, safe='/:')}")
        except EnvironmentFailed as failed:
            journal.warning("images_not_removed", why=failed.message)


class _InContext:
    """The builder for one run, with its snapshot."""

    kind = DockerBuilder.kind

    def __init__(self, builder: DockerBuilder, context: BuildContext) -> None:
        self._builder = builder
        self._context = context

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder."""
        listener = Listener(log, progress)
        return await self._builder.provide_with(self._context, spec, locks, listener)


def _built_as(options: DockerImage, lock: EnvironmentLock, context: BuildContext | None) -> str:
    """The key of a built image: of its lock, the files that it copies, and the build's network."""
    parts = [lock.hash]
    if context is not None and copying(options.dockerfile) is not None:
        parts.append(context.digest)
    return lock.hash if len(parts) == 1 else digest_bytes(" ".join(parts).encode())


def _own_bytes(image: Mapping[str, Any], bases: Sequence[Mapping[str, Any]]) -> int:
    """What an image takes of the disk beyond the largest base that it is made on."""
    layers = (image.get("RootFS") or {}).get("Layers") or []
    shared = [
        int(base.get("Size") or 0)
        for base in bases
        if (below := (base.get("RootFS") or {}).get("Layers") or []) == layers[: len(below)]
    ]
    return int(image.get("Size") or 0) - max(shared, default=0)


def _provided(
    api: DockerApi,
    options: DockerImage,
    found: Mapping[str, Any],
    inside: Inside,
    lock: EnvironmentLock,
    built_as: str,
) -> ProvidedEnvironment:
    """What the executor is told of an image."""
    env = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in variables(found).items()
    }
    container = Container(api.socket, str(found["Id"]), inside.shell, options)
    python = inside.python.encode("utf-8", "surrogateescape")
    return ProvidedEnvironment(python, env, lock, container, built_as)


def _refuse_packages(options: DockerImage) -> None:
    """Raises EnvironmentFailed for packages on top."""
    asked = options.WhichOneof("packages")
    if asked is not None:
        raise EnvironmentFailed(
            f"docker.{asked} is not served yet",
            "install the packages by a RUN line of a Dockerfile",
            {"field": f"docker.{asked}"},
        )
