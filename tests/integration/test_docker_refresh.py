"""Container images of a tag that a registry gives to another image later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.environment_case import Log, provide, run
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec
from support.docker_engine import SHELL_IMAGE, DockerEngine
from support.registry import fresh_file, registry, remove_pulled


def test_tag_is_resolved_to_its_newest_digest_only_by_a_refresh(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    builder = made(tmp_path, docker_engine)
    with registry() as served:
        spec = EnvironmentSpec(docker=DockerImage(image=f"{served.host}/team/train:1"))
        first_digest = served.add("team/train:1", {"hello": fresh_file()})
        first = run(provide(builder, spec))
        second_digest = served.add("team/train:1", {"hello": fresh_file()})

        unchanged = run(provide(builder, spec))
        log = Log()
        second = run(provide(builder, spec, log, is_refresh=True))
        assert first.lock is not None
        old = run(provide(builder, spec, locks=[first.lock]))
    remove_pulled(docker_engine, served)

    assert first.lock is not None
    assert unchanged.lock is not None
    assert second.lock is not None
    assert first_digest in first.lock.text
    assert unchanged.lock.hash == first.lock.hash
    assert second_digest in second.lock.text
    assert "Asking the registry for the newest image" in log.text
    assert old.container == first.container
    assert second.container != first.container


def test_refresh_fails_where_the_registry_does_not_answer(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    builder = made(tmp_path, docker_engine)
    with registry() as served:
        reference = f"{served.host}/team/gone:1"
        spec = EnvironmentSpec(docker=DockerImage(image=reference))
        served.add("team/gone:1", {"hello": fresh_file()})
        run(provide(builder, spec))

    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(builder, spec, is_refresh=True))
    remove_pulled(docker_engine, served)

    assert reference in caught.value.message


def test_image_of_no_registry_is_what_the_engine_has(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    builder = made(tmp_path, docker_engine)
    spec = EnvironmentSpec(docker=DockerImage(image=SHELL_IMAGE))

    first, again = run(provide(builder, spec)), run(provide(builder, spec, is_refresh=True))

    assert first.lock is not None
    assert again.lock is not None
    assert first.lock.hash == again.lock.hash


def made(folder: Path, engine: DockerEngine) -> DockerBuilder:
    environments = folder / "environments"
    environments.mkdir()
    return DockerBuilder(
        EnvironmentCache(environments), {"PATH": os.environ["PATH"], "DOCKER_HOST": engine.url}
    )
