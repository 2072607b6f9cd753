"""An engine whose disk is full: told as such, nothing left, and it goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.docker_cases import Site
from contract.environment_case import Log, provide, run
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec
from support.docker_engine import (
    SHELL_IMAGE,
    DockerEngine,
    make_shell_root,
    skip_without_engine,
)
from support.registry import fresh_file, registry
from support.small_disk import lacking, small_disk

DISK_BYTES = 128 << 20
TOO_MUCH_BYTES = 256 << 20
FULL = "the disk of the Docker engine is full"


@pytest.fixture(scope="module")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """An engine that has all its files on a small disk."""
    skip_without_engine()
    if why := lacking():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("small")
    with small_disk(folder, DISK_BYTES) as disk:
        engine = DockerEngine(disk)
        try:
            engine.start()
            make_shell_root(folder / "root")
            engine.import_image(folder / "root", SHELL_IMAGE)
            yield engine
        finally:
            engine.stop()


@pytest.fixture
def site(small_engine: DockerEngine, tmp_path: Path) -> Iterator[Site]:
    made = Site(small_engine, tmp_path)
    yield made
    made.clear()


def dockerfile(text: str) -> EnvironmentSpec:
    docker = DockerImage(dockerfile=f"FROM {SHELL_IMAGE}\n{text}\n", network="none")
    return EnvironmentSpec(docker=docker)


def failure(site: Site, spec: EnvironmentSpec, log: Log | None = None) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(site.builder(), spec, log))
    return caught.value


def test_build_that_fills_the_disk(site: Site) -> None:
    step, log = f"RUN head -c {TOO_MUCH_BYTES} /dev/zero > /large", Log()

    failed = failure(site, dockerfile(step), log)

    assert failed.message == f"{FULL}: Dockerfile line 2 ({step})"
    assert "docker system df" in failed.advice
    assert failed.metadata == {"line": "2", "instruction": step}
    assert f"Failed: {failed.message}\n" in log.text
    assert site.built() == []
    assert site.engine.containers() == []
    provided = run(provide(site.builder(), dockerfile("RUN touch /small")))  # there is room again
    assert provided.container is not None


def test_image_that_is_larger_than_the_disk(site: Site) -> None:
    with registry() as served:
        served.add("mine/large:1", {"large": fresh_file(8 << 20) + bytes(TOO_MUCH_BYTES)})
        name = f"{served.host}/mine/large:1"

        failed = failure(site, EnvironmentSpec(docker=DockerImage(image=name)))

    assert failed.message == FULL
    assert failed.metadata == {"image": name}
    assert list((site.engine.folder / "data" / "tmp").glob("GetImageBlob*")) == []
    provided = run(provide(site.builder(), dockerfile("RUN touch /small")))
    assert provided.container is not None
