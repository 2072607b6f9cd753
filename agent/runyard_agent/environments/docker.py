"""Environments that are container images: named ones, and those that are built here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runyard_agent.environments.builds import work_key
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker_api import DockerApi, find_socket
from runyard_agent.environments.docker_builds import PROBES_NAME, DockerBuilds, Wanted
from runyard_agent.environments.docker_conda import PYTHON_LABEL
from runyard_agent.environments.docker_images import Images
from runyard_agent.environments.docker_lock import (
    ContainerLock,
    node_platform,
    read_lock,
    write_lock,
)
from runyard_agent.environments.docker_pip import PREFIX, PYTHON, DockerPip, needs_python
from runyard_agent.environments.docker_probe import Inside, Probes, variables
from runyard_agent.environments.docker_work import work_labels
from runyard_agent.environments.dockerfile import bases, copying
from runyard_agent.environments.lock import lock_for, make_lock
from runyard_agent.environments.protocol import (
    BuildContext,
    Container,
    NotHere,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.rattler_calls import Mirrors
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyard_contract.digest import digest_bytes
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock, EnvironmentSpec


class DockerBuilder:
    """Provides container images of the engine of this node.

    Args:
        cache: where it is noted what is built, and remembered what images hold.
        environ: the agent's variables; DOCKER_HOST and the user's `docker login` count.
        is_offline: nothing is fetched, resolved or built: images have to be in the engine.
    """

    kind = "docker"

    def __init__(
        self,
        cache: EnvironmentCache,
        environ: Mapping[str, str],
        mirrors: Mirrors | None = None,
        *,
        is_offline: bool = False,
    ) -> None:
        self._environ = environ
        self._cache = cache
        self._is_offline = is_offline
        self._builds = DockerBuilds(cache, environ, mirrors, is_offline=is_offline)
        self._probes = Probes(cache.root / PROBES_NAME)
        self._working: SharedWork[Any] = SharedWork(
            "image", "Another run needs the same image; waiting for it."
        )

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
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. For an image seen before the engine is asked one question."""
        return await self.provide_with(None, spec, locks, Listener(log, progress), is_refresh)

    async def provide_with(
        self,
        context: BuildContext | None,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        listener: Listener,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """The same with the files that a Dockerfile may copy."""
        api = DockerApi(find_socket(self._environ))
        platform = node_platform()
        lock = None if is_refresh else lock_for(platform, locks)
        if lock is None:

            async def resolve_and_build(audience: Audience) -> tuple[Wanted, Mapping[str, Any]]:
                resolved = await self._resolve(
                    api, spec.docker, platform, context, audience, is_refresh
                )
                wanted = Wanted(api, spec.docker, resolved, context)
                return wanted, await self._image(wanted, Listener(audience, audience.progress))

            # Who asks during the build takes part in it too, instead of resolving once more.
            files = context.digest if context is not None and self.needs_context(spec) else ""
            key = work_key(f"{api.socket} {files}", spec, is_refresh=is_refresh)
            wanted, found = await self._working.do(key, resolve_and_build, listener)
        else:
            wanted = Wanted(api, spec.docker, lock, context)
            found = await self._image(wanted, listener)
        known = read_lock(wanted.lock.text)
        interpreter = spec.docker.interpreter_path
        if known.is_layered:
            labels = (found.get("Config") or {}).get("Labels") or {}
            interpreter = PYTHON if known.conda is None else str(labels.get(PYTHON_LABEL, ""))
        inside = await self._look(api, found, interpreter, spec.docker, listener)
        built_as = wanted.key if known.is_layered or spec.docker.dockerfile else ""
        if built_as:
            self._cache.used(built_as)
        return _provided(wanted, found, inside, built_as, PREFIX if known.pip is not None else "")

    async def _resolve(
        self,
        api: DockerApi,
        options: DockerImage,
        platform: str,
        context: BuildContext | None,
        audience: Audience,
        is_refresh: bool,
    ) -> EnvironmentLock:
        """Finds the images that it is made of, and the packages on top."""
        images = self._images(api)
        text = options.dockerfile
        if self._is_offline and (text or options.WhichOneof("packages")):
            raise NotHere(
                "its image was not built on this node",
                "build it where there is a network, and name the image that you carry here",
            )
        references = bases(text) if text else [options.image]
        pins = tuple(
            [await images.resolve(one, audience, is_refresh=is_refresh) for one in references]
        )
        digest = digest_bytes(text.encode()) if text else ""
        below = ContainerLock(pins, digest)
        lock = make_lock(platform, write_lock(below), time.time_ns())
        if options.HasField("pip"):
            listener = Listener(audience, audience.progress)
            base, inside = await self._base_with_python(
                Wanted(api, options, lock, context), listener
            )
            work = work_labels(self._cache.root)
            pip = await DockerPip(api, self._environ, work).resolve(
                options, str(base["Id"]), inside, audience, is_refresh=is_refresh
            )
            locked = write_lock(replace(below, pip=pip))
            lock = make_lock(platform, locked, time.time_ns())
        elif options.HasField("conda"):
            conda = await self._builds.conda.resolve(options.conda, audience, is_refresh=is_refresh)
            locked = write_lock(replace(below, conda=(conda.platform, conda.text)))
            lock = make_lock(platform, locked, time.time_ns())
        audience.say(f"Resolved: lock {lock.hash[:16]}.")
        return lock

    async def _image(self, wanted: Wanted, listener: Listener) -> Mapping[str, Any]:
        """The image that a job runs in."""
        if read_lock(wanted.lock.text).is_layered:
            return await self._layered(wanted, listener)
        return await self._base(wanted, listener)

    def _images(self, api: DockerApi) -> Images:
        return Images(api, self._environ, is_offline=self._is_offline)

    async def _layered(self, wanted: Wanted, listener: Listener) -> Mapping[str, Any]:
        """The image with packages on top, for which the one below is needed only to build it."""
        found = await self._builds.found(wanted, listener)
        if found is not None:
            listener.log.write(f"Image {wanted.tag} is already built.\n".encode())
            return found
        known = read_lock(wanted.lock.text)
        lock = make_lock(wanted.lock.platform, write_lock(known.below), 0)
        below = Wanted(wanted.api, wanted.options, lock, wanted.context)
        if known.conda is not None:
            base = await self._base(below, listener)
            return await self._builds.with_conda(wanted, base, listener)
        base, inside = await self._base_with_python(below, listener)
        return await self._builds.with_pip(wanted, base, inside, listener)

    async def _base_with_python(
        self, wanted: Wanted, listener: Listener
    ) -> tuple[Mapping[str, Any], Inside]:
        """The image below packages, and what is in it; EnvironmentFailed without Python."""
        base = await self._base(wanted, listener)
        inside = await self._look(wanted.api, base, "", wanted.options, listener)
        if not inside.python:
            raise needs_python(wanted.options)
        return base, inside

    async def _base(self, wanted: Wanted, listener: Listener) -> Mapping[str, Any]:
        """The image without packages on top, fetched or built where it is not here."""
        if wanted.options.dockerfile:
            return await self._builds.of_dockerfile(wanted, listener)
        (pin,) = read_lock(wanted.lock.text).bases
        found = await wanted.api.image(pin.exact)
        if found is not None:
            return found

        async def fetch(audience: Audience) -> Mapping[str, Any]:
            return await self._images(wanted.api).exact(pin, audience)

        fetched: Mapping[str, Any] = await self._working.do(
            f"{wanted.api.socket} {pin.exact}", fetch, listener
        )
        return fetched

    async def _look(
        self,
        api: DockerApi,
        found: Mapping[str, Any],
        interpreter: str,
        options: DockerImage,
        listener: Listener,
    ) -> Inside:
        """What the image holds, looked at only once."""
        image = str(found["Id"])
        known = self._probes.known(image, interpreter)
        if known is not None:
            return known

        async def look(audience: Audience) -> Inside:
            audience.progress("looking into the image")
            name = options.image or "of the Dockerfile"
            return await self._probes.look(api, image, interpreter, name)

        inside: Inside = await self._working.do(
            f"{api.socket} {image} {interpreter}", look, listener
        )
        return inside


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
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder."""
        listener = Listener(log, progress)
        return await self._builder.provide_with(self._context, spec, locks, listener, is_refresh)


def _provided(
    wanted: Wanted, found: Mapping[str, Any], inside: Inside, built_as: str, prefix: str
) -> ProvidedEnvironment:
    """What the executor is told of an image; `prefix` is where packages on top lie."""
    env = variables(found)
    if prefix:
        env |= {"VIRTUAL_ENV": prefix, "PATH": f"{prefix}/bin:{env['PATH']}"}
    as_bytes = {_encoded(name): _encoded(value) for name, value in env.items()}
    container = Container(wanted.api.socket, str(found["Id"]), inside.shell, wanted.options)
    return ProvidedEnvironment(_encoded(inside.python), as_bytes, wanted.lock, container, built_as)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
