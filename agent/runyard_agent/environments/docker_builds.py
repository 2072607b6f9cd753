"""Images that are built here: of Dockerfiles, and of packages on top. Once for each key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from runyard_agent import journal
from runyard_agent.environments.builds import Builds, Contents, Fill, Recipe, count_of
from runyard_agent.environments.cache import KEY_DIGITS, EnvironmentCache
from runyard_agent.environments.docker_api import DockerApi, find_socket
from runyard_agent.environments.docker_calls import ask_engine
from runyard_agent.environments.docker_conda import DockerConda
from runyard_agent.environments.docker_diagnosis import explain_build, no_context
from runyard_agent.environments.docker_images import Images, telling
from runyard_agent.environments.docker_lock import read_lock
from runyard_agent.environments.docker_pip import DockerPip
from runyard_agent.environments.docker_probe import Inside
from runyard_agent.environments.docker_work import remove_leftovers, work_labels
from runyard_agent.environments.dockerfile import copying, with_bases
from runyard_agent.environments.lock import make_lock, packages
from runyard_agent.environments.protocol import BuildContext, EnvironmentFailed
from runyard_agent.environments.rattler_calls import Mirrors
from runyard_agent.environments.shared_work import Audience, Listener, failures_told
from runyard_contract.digest import digest_bytes
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock

PROBES_NAME = "images.json"
REPOSITORY = "runyard/environment"
LABEL = "dev.runyard.environments"
"""On each image that is built: the folder of the environments that it belongs to."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be built, of which engine, with which files to copy."""

    api: DockerApi
    options: DockerImage
    lock: EnvironmentLock
    context: BuildContext | None

    @property
    def key(self) -> str:
        """Names the image on this node: by its lock, and by the files that it copies."""
        if self.context is None or copying(self.options.dockerfile) is None:
            return self.lock.hash
        return digest_bytes(f"{self.lock.hash} {self.context.digest}".encode())

    @property
    def of_lock(self) -> str:
        """The lock's hash, where that does not name the image."""
        return self.lock.hash if self.lock.hash != self.key else ""

    @property
    def tag(self) -> str:
        """The name of the image."""
        return f"{REPOSITORY}:{self.key[:KEY_DIGITS]}"


class DockerBuilds:
    """The images that one agent builds, noted in a cache of environments."""

    def __init__(
        self,
        cache: EnvironmentCache,
        environ: Mapping[str, str],
        mirrors: Mirrors | None = None,
        *,
        is_offline: bool = False,
    ) -> None:
        self._cache = cache
        self._environ = environ
        self._is_offline = is_offline
        self._builds = Builds(cache, "docker", is_offline=is_offline)
        self.conda = DockerConda(cache, environ, mirrors, is_offline=is_offline)
        cache.cleaners.append(self._remove_unwanted)

    async def found(self, wanted: Wanted, listener: Listener) -> Mapping[str, Any] | None:
        """The image, if it is built and still is in the engine."""
        record = self._cache.ready(wanted.key)
        if record is not None:
            # Who waits for it keeps it while the engine is asked.
            self._cache.uses.built(wanted.key)
        found = None if record is None else await wanted.api.image(record.image)
        if record is not None and found is None:
            listener.log.write(f"Image {wanted.tag} was removed from the engine.\n".encode())
            await self._cache.discard(wanted.key)
        return found

    async def of_dockerfile(self, wanted: Wanted, listener: Listener) -> Mapping[str, Any]:
        """The image that a Dockerfile makes."""

        async def fill(audience: Audience, lock_fd: int) -> Contents:
            return await self._fill_by_dockerfile(wanted, audience, lock_fd)

        return await self._ensured(wanted, fill, listener)

    async def with_pip(
        self, wanted: Wanted, base: Mapping[str, Any], inside: Inside, listener: Listener
    ) -> Mapping[str, Any]:
        """The image with packages on top of `base`, which has `inside` in it."""
        text = read_lock(wanted.lock.text).pip or ""

        async def fill(audience: Audience, lock_fd: int) -> Contents:
            count = packages(text)
            audience.say(f"Building image {wanted.tag}: {count_of(count)} on top.")
            self._cache.folder(wanted.key).mkdir()
            pip = DockerPip(wanted.api, self._environ, work_labels(self._cache.root))
            image = await pip.install(
                wanted.options, base, inside, text, wanted.tag, self._labels, audience, lock_fd
            )
            size_bytes = await _own_bytes(wanted.api, image, [base])
            return Contents(inside.version, count, image, size_bytes, wanted.of_lock)

        return await self._ensured(wanted, fill, listener)

    async def with_conda(
        self, wanted: Wanted, base: Mapping[str, Any], listener: Listener
    ) -> Mapping[str, Any]:
        """The image with conda packages on top of `base`."""
        lock = make_lock(*(read_lock(wanted.lock.text).conda or ("", "")), 0)

        async def fill(audience: Audience, lock_fd: int) -> Contents:
            audience.say(f"Building image {wanted.tag}: conda packages on top.")
            self._cache.folder(wanted.key).mkdir()
            image = await self.conda.install(
                *(wanted.api, wanted.options.conda, base, lock, wanted.tag),
                *(self._labels, audience, lock_fd),
            )
            size_bytes = await _own_bytes(wanted.api, image, [base])
            return Contents("", 0, image, size_bytes, wanted.of_lock)

        return await self._ensured(wanted, fill, listener)

    @property
    def _labels(self) -> dict[str, str]:
        return {LABEL: str(self._cache.root)}

    async def _ensured(self, wanted: Wanted, fill: Fill, listener: Listener) -> Mapping[str, Any]:
        """The image, built where it is not here any more."""
        await self.found(wanted, listener)
        as_built = EnvironmentLock(platform=wanted.lock.platform, hash=wanted.key)
        await self._builds.ensure(as_built, Recipe(fill), listener)
        found = await self.found(wanted, listener)
        if found is None:
            raise EnvironmentFailed(
                "the image was removed from the engine as soon as it was built", "submit again"
            )
        return found

    async def _fill_by_dockerfile(
        self, wanted: Wanted, audience: Audience, lock_fd: int
    ) -> Contents:
        """Builds the image on exactly the bases of the lock."""
        api, options, context = wanted.api, wanted.options, wanted.context
        copied = copying(options.dockerfile)
        if copied is not None and context is None:
            raise telling(audience, no_context(copied))
        images = Images(api, self._environ, is_offline=self._is_offline)
        pins = read_lock(wanted.lock.text).bases
        found = [await images.exact(pin, audience) for pin in pins]
        audience.say(f"Building image {wanted.tag} from the Dockerfile.")
        audience.progress("building the image")
        self._cache.folder(wanted.key).mkdir()
        request = {
            "action": "build",
            "dockerfile": with_bases(
                options.dockerfile, {pin.reference: pin.exact for pin in pins}
            ),
            "folder": context.folder if context is not None and copied is not None else None,
            "tag": wanted.tag,
            "labels": self._labels,
            "network": options.network,
        }
        with failures_told(audience):
            answer = await ask_engine(
                api.socket,
                request,
                self._environ,
                audience.write,
                (lock_fd,),
                lambda fault: explain_build(fault, options.dockerfile),
            )
        image = str(answer["image"])
        return Contents("", 0, image, await _own_bytes(api, image, found), wanted.of_lock)

    async def _remove_unwanted(self) -> None:
        """Removes the images of environments that made room for others, or were never finished.

        And the containers that killed agents have left of their work.
        """
        if not (self._cache.root / PROBES_NAME).exists():
            return  # no image was ever provided here
        try:
            api = DockerApi(find_socket(self._environ))
            await remove_leftovers(api, self._cache.root)
            filters = quote(json.dumps({"label": [f"{LABEL}={self._cache.root}"]}))
            answer = await api.call("GET", f"/images/json?filters={filters}")
            for image in (answer.json() or ()) if answer.is_ok else ():
                for tag in image.get("RepoTags") or ():
                    key = tag.removeprefix(f"{REPOSITORY}:")
                    if key != tag and not self._cache.is_wanted(key):
                        await api.call("DELETE", f"/images/{quote(tag, safe='/:')}")
        except EnvironmentFailed as failed:
            journal.warning("engine_not_swept", why=failed.message)


async def _own_bytes(api: DockerApi, image: str, bases: Sequence[Mapping[str, Any]]) -> int:
    """What an image takes of the disk beyond the largest base that it is made on, at least 1."""
    found = await api.image(image) or {}
    layers = (found.get("RootFS") or {}).get("Layers") or []
    shared = [
        int(base.get("Size") or 0)
        for base in bases
        if (below := (base.get("RootFS") or {}).get("Layers") or []) == layers[: len(below)]
    ]
    return max(1, int(found.get("Size") or 0) - max(shared, default=0))
