"""Images that come from a registry: by tag and digest, with a login, and when it does not give."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.environment_case import Log, cancelled, provide, run
from integration.test_docker_builds import environ, wait_until
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.docker_lock import node_platform
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock, EnvironmentSpec
from support.docker_engine import DockerEngine, make_bare_root
from support.registry import FOREIGN, Registry, fresh_file, registry, remove_pulled


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("hello") / "root"
    make_bare_root(root)
    return (root / "hello").read_bytes()


class Site:
    """A registry, the engine that fetches from it, and a node with a folder of environments."""

    def __init__(self, served: Registry, engine: DockerEngine, folder: Path, hello: bytes) -> None:
        self.registry = served
        self.engine = engine
        self._folder = folder
        self.files = {"hello": hello, "fresh": fresh_file()}

    def name(self, tag: str) -> str:
        return f"{self.registry.host}/{tag}"

    def provide(self, image: str, log: Log | None = None, *locks: EnvironmentLock) -> str:
        """Gives the id of the image that a job would get."""
        provided = run(provide(self.builder(), self.spec(image), log, locks))
        assert provided.container is not None
        return provided.container.image

    def lock(self, image: str) -> EnvironmentLock:
        lock = run(provide(self.builder(), self.spec(image))).lock
        assert lock is not None
        return lock

    def failure(self, image: str, log: Log | None = None) -> EnvironmentFailed:
        with pytest.raises(EnvironmentFailed) as caught:
            run(provide(self.builder(), self.spec(image), log))
        return caught.value

    def log_in(self, login: str) -> None:
        """What `docker login` leaves in the user's home."""
        auth = {self.registry.host: {"auth": base64.b64encode(login.encode()).decode()}}
        self.configure({"auths": auth})

    def configure(self, content: object) -> None:
        (self._folder / "config.json").write_text(json.dumps(content))

    def says(self, image: str) -> str:
        return self.engine.docker("run", "--rm", "--network=none", image, "/hello", "you").stdout

    def images(self) -> list[str]:
        listed = self.engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
        return [name for name in listed.split() if name.startswith(self.registry.host)]

    def blobs(self) -> list[Path]:
        """What the engine has begun to fetch."""
        return list((self.engine.folder / "data" / "tmp").glob("GetImageBlob*"))

    def builder(self) -> DockerBuilder:
        settings = {**environ(self.engine), "DOCKER_CONFIG": str(self._folder)}
        return DockerBuilder(EnvironmentCache(self._folder), settings)

    def spec(self, image: str) -> EnvironmentSpec:
        return EnvironmentSpec(docker=DockerImage(image=image, network="none"))

    def clear(self) -> None:
        remove_pulled(self.engine, self.registry)
        assert self.images() == []


@pytest.fixture
def site(docker_engine: DockerEngine, tmp_path: Path, hello: bytes) -> Iterator[Site]:
    with registry() as served:
        made = Site(served, docker_engine, tmp_path, hello)
        yield made
        made.clear()


def test_is_fetched_by_its_tag_and_the_log_tells_how(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    name, log = site.name("mine/tool:1"), Log()

    image = site.provide(name, log)

    assert site.says(image) == "hello you\n"
    assert f"Image {name} is not on this node; fetching it.\n" in log.text
    assert "Pull complete\n" in log.text
    assert "Fetched in " in log.text
    assert f"fetching image {name}" in log.doing


def test_second_node_gets_the_image_of_the_lock_whatever_the_tag_means(site: Site) -> None:
    digest = site.registry.add("mine/tool:1", site.files)
    name = site.name("mine/tool:1")
    lock = site.lock(name)
    image = site.provide(name, None, lock)
    site.clear()
    site.registry.add("mine/tool:1", {"hello": fresh_file()})

    again = site.provide(name, None, lock)

    assert f"digest: {site.name('mine/tool')}@{digest}\n" in lock.text
    assert again == image
    assert site.says(again) == "hello you\n"


def test_is_fetched_by_its_digest(site: Site) -> None:
    digest = site.registry.add("mine/tool:1", site.files)
    site.registry.add("mine/tool:1", {"hello": fresh_file()})
    name = site.name(f"mine/tool@{digest}")

    image = site.provide(name)

    assert site.says(image) == "hello you\n"
    assert f"base: {name}\n" in site.lock(name).text


def test_base_of_a_dockerfile_is_fetched(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    text = f"FROM {site.name('mine/tool:1')}\nENV A=b\n"
    spec = EnvironmentSpec(docker=DockerImage(dockerfile=text, network="none"))

    provided = run(provide(site.builder(), spec))

    assert provided.env[b"A"] == b"b"
    assert provided.container is not None
    site.engine.docker("rmi", "-f", provided.container.image)


def test_two_runs_fetch_once(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.registry.stalled.set()
    name, log, builder = site.name("mine/tool:1"), Log(), site.builder()

    async def both() -> None:
        first = asyncio.create_task(provide(builder, site.spec(name)))
        await asyncio.to_thread(wait_until, lambda: site.blobs() != [])
        second = asyncio.create_task(provide(builder, site.spec(name), log))
        await log.says("waiting for it")
        site.registry.go_on.set()
        assert (await first).container == (await second).container

    run(both())

    layers = [one for one in site.registry.requests if "/blobs/" in one]
    assert len(layers) == len(set(layers)) == 2


def test_missing_image_is_named(site: Site) -> None:
    name, log = site.name("mine/nowhere:1"), Log()

    failed = site.failure(name, log)

    assert failed.message == f"there is no image {name} on this node or in its registry"
    assert "check name and tag" in failed.advice
    assert failed.metadata == {"image": name}
    assert f"Failed: {failed.message}\n" in log.text


def test_registry_that_is_not_there_is_named(site: Site) -> None:
    with registry() as other:
        host = other.host

    failed = site.failure(f"{host}/mine/tool:1")

    assert failed.message == (
        f"image {host}/mine/tool:1 is not on this node, and its registry can't be reached ({host})"
    )
    assert "docker load" in failed.advice


def test_private_image_needs_a_login_and_comes_with_it(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.registry.login = "me:secret"
    name = site.name("mine/tool:1")

    without = site.failure(name)
    site.log_in("me:wrong")
    wrong = site.failure(name)
    site.log_in("me:secret")
    log = Log()
    image = site.provide(name, log)

    for failed in (without, wrong):
        assert failed.message == (
            f"the registry refuses to give image {name}: it is not there, or needs a login"
        )
        assert f"docker login {site.registry.host}" in failed.advice
    assert site.says(image) == "hello you\n"
    assert "secret" not in log.text


def test_login_in_a_store_that_is_not_here_is_told(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.configure({"auths": {site.registry.host: {}}, "credsStore": "runyard-none"})

    failed = site.failure(site.name("mine/tool:1"))

    assert "docker-credential-runyard-none" in failed.message
    assert "config.json" in failed.advice


def test_list_without_this_architecture(site: Site) -> None:
    site.registry.add_list("mine/tool:1", site.files, [FOREIGN, "mips64le"])
    name = site.name("mine/tool:1")

    failed = site.failure(name)

    assert f"there is no image {name} for this node's platform" in failed.message
    assert node_platform() in failed.message
    assert site.images() == []


def test_list_with_this_architecture_gives_just_that(site: Site) -> None:
    own = node_platform().partition("/")[2]
    site.registry.add_list("mine/tool:1", site.files, [FOREIGN, own])

    image = site.provide(site.name("mine/tool:1"))

    assert site.says(image) == "hello you\n"


def test_image_of_another_architecture_is_refused_and_not_kept(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files, architecture=FOREIGN)
    name = site.name("mine/tool:1")

    failed = site.failure(name)

    assert f"image {name} is for linux/{FOREIGN}, and this node runs" in failed.message
    assert site.images() == []


def test_fetch_that_breaks_off_once_goes_on(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.registry.cuts = 1
    log = Log()

    image = site.provide(site.name("mine/tool:1"), log)

    assert site.says(image) == "hello you\n"
    assert log.text.count("Retrying in ") == 1


def test_fetch_that_always_breaks_off_fails_and_leaves_nothing(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.registry.cuts = 1000
    name = site.name("mine/tool:1")

    failed = site.failure(name)

    assert failed.message == (
        f"image {name} did not come whole: its registry broke off again and again (unexpected EOF)"
    )
    assert "submit again" in failed.advice
    assert (site.images(), site.blobs()) == ([], [])


def test_cancelled_fetch_ends_and_leaves_nothing(site: Site) -> None:
    site.registry.add("mine/tool:1", site.files)
    site.registry.stalled.set()

    async def cancel() -> None:
        task = asyncio.create_task(provide(site.builder(), site.spec(site.name("mine/tool:1"))))
        await asyncio.to_thread(wait_until, lambda: site.blobs() != [])
        await cancelled(task)

    run(cancel())

    wait_until(lambda: site.blobs() == [])
    assert site.images() == []
