"""Images that a Dockerfile makes: built once, with the snapshot's files, and failures by line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.environment_case import Log, cancelled, execute, provide, provide_to, run
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.docker_builds import REPOSITORY
from runyard_agent.environments.protocol import (
    BuildContext,
    EnvironmentFailed,
    ProvidedEnvironment,
)
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine, start_engine

RUNS = f"FROM {PYTHON_IMAGE}\nRUN echo built > /built\n"
COPIES = f"FROM {PYTHON_IMAGE}\nCOPY . /app\n"
SLEEPS = f"FROM {PYTHON_IMAGE}\nRUN echo here && sleep 600\n"
PROOF = "assert open('/built').read() == 'built\\n'"


def spec(text: str) -> EnvironmentSpec:
    return EnvironmentSpec(docker=DockerImage(dockerfile=text, network="none"))


def environ(engine: DockerEngine) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "DOCKER_HOST": engine.url}


@pytest.fixture
def make(tmp_path: Path, docker_engine: DockerEngine) -> Iterator[Callable[[], DockerBuilder]]:
    """Makes builders over one folder; their images are removed at the end."""
    (tmp_path / "environments").mkdir()
    cache = EnvironmentCache(tmp_path / "environments")
    yield lambda: DockerBuilder(EnvironmentCache(cache.root), environ(docker_engine))
    for image in images(docker_engine, cache.root):
        docker_engine.docker("rmi", "-f", image, check=False)


def images(engine: DockerEngine, root: Path) -> list[str]:
    """Tagged images of a folder of environments."""
    label = f"label=dev.runyard.environments={root}"
    listed = engine.docker(
        *("images", "--filter", label, "--filter", "dangling=false"),
        *("--format", "{{.Repository}}:{{.Tag}}"),
    )
    return listed.stdout.split()


def provide_in(
    builder: DockerBuilder, folder: Path, digest: str, text: str, log: Log | None = None
) -> ProvidedEnvironment:
    """What an attempt with a snapshot gets."""
    bound = builder.within(BuildContext(str(folder), digest))
    return run(provide(bound, spec(text), log))


def failure(builder: DockerBuilder, text: str, log: Log | None = None) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(builder, spec(text), log))
    return caught.value


def test_base_is_the_one_of_the_lock(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    docker_engine.docker("tag", PYTHON_IMAGE, "runyard-test/base:1")
    text = "FROM runyard-test/base:1\nRUN echo built > /built\n"
    lock = run(provide(make(), spec(text))).lock
    assert lock is not None
    docker_engine.docker("tag", SHELL_IMAGE, "runyard-test/base:1")
    (tmp_path / "other").mkdir()
    other = DockerBuilder(EnvironmentCache(tmp_path / "other"), environ(docker_engine))

    elsewhere = run(provide(other, spec(text), locks=[lock]))

    assert execute(elsewhere, PROOF).returncode == 0
    docker_engine.docker("rmi", "runyard-test/base:1")


def test_snapshot_is_the_context_and_a_change_builds_again(
    make: Callable[[], DockerBuilder], tmp_path: Path
) -> None:
    builder, folder, log = make(), tmp_path / "work", Log()
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("one")
    (folder / "left.out").write_text("secret")
    (folder / ".dockerignore").write_text("*.out\n.dockerignore\n")
    (folder / "outside").symlink_to("/etc/hostname")
    look = "import os; print(open('/app/sub/a.txt').read(), sorted(os.listdir('/app')))"

    first = provide_in(builder, folder, "a" * 64, COPIES)
    again = provide_in(builder, folder, "a" * 64, COPIES, log)
    (folder / "sub" / "a.txt").write_text("two")
    changed = provide_in(builder, folder, "b" * 64, COPIES)

    assert execute(first, look).stdout == "one ['outside', 'sub']\n"
    assert execute(changed, look).stdout == "two ['outside', 'sub']\n"
    assert execute(first, "import os; print(os.readlink('/app/outside'))").stdout == (
        "/etc/hostname\n"
    )
    assert "already built" in log.text
    assert again.container == first.container
    assert first.lock is not None
    assert changed.lock is not None
    assert first.lock.hash == changed.lock.hash
    assert first.key != changed.key
    kept = EnvironmentCache(tmp_path / "environments").found()
    assert [one.record.of_lock for one in kept] == [first.lock.hash] * 2


def test_dockerfile_that_copies_nothing_is_the_same_with_any_snapshot(
    make: Callable[[], DockerBuilder], tmp_path: Path
) -> None:
    first = provide_in(make(), tmp_path, "a" * 64, RUNS)
    second = provide_in(make(), tmp_path, "b" * 64, RUNS)

    assert first.container == second.container


def test_failures_name_the_line(make: Callable[[], DockerBuilder], tmp_path: Path) -> None:
    builder, log = make(), Log()
    run_line = f"FROM {PYTHON_IMAGE}\n\nRUN true && \\\n    echo no compiler && exit 3\n"

    no_context = failure(builder, COPIES)
    failed = failure(builder, run_line, log)
    unreadable = failure(builder, f"FROM {PYTHON_IMAGE}\nRUNN x\n")
    mount = failure(builder, f"FROM {PYTHON_IMAGE}\nRUN --mount=type=cache,target=/c true\n")
    missing = failure(builder, "FROM runyard-test/nowhere:1\n")
    with pytest.raises(EnvironmentFailed) as gone:
        provide_in(builder, tmp_path, "a" * 64, f"FROM {PYTHON_IMAGE}\nCOPY gone.txt /\n")

    assert "Dockerfile line 2 takes files (COPY . /app)" in no_context.message
    assert "--source" in no_context.advice
    assert failed.message == (
        "Dockerfile line 3 failed (RUN true && echo no compiler && exit 3): it ended with 3;"
        " it said: no compiler"
    )
    assert ": RUN true" in log.text
    assert f"Failed: {failed.message}" in log.text
    assert "Dockerfile line 2 can't be read: unknown instruction: RUNN" in unreadable.message
    assert "Dockerfile line 2 needs BuildKit" in mount.message
    assert "runyard-test/nowhere:1" in missing.message
    assert "Dockerfile line 2 failed (COPY gone.txt /)" in gone.value.message
    assert "snapshot" in gone.value.advice


def test_cancelled_build_ends_and_leaves_nothing(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    async def cancel() -> None:
        log = Log()
        task = asyncio.create_task(provide(make(), spec(SLEEPS), log))
        await log.says("\nhere\n")
        await cancelled(task)

    run(cancel())

    wait_until(lambda: docker_engine.containers() == [])
    assert images(docker_engine, tmp_path / "environments") == []


def test_image_that_was_removed_is_built_again(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    builder, log = make(), Log()
    first = run(provide(builder, spec(RUNS)))
    assert first.lock is not None
    docker_engine.docker("rmi", "-f", *images(docker_engine, tmp_path / "environments"))

    again = run(provide(builder, spec(RUNS), log, [first.lock]))

    assert "removed from the engine" in log.text
    assert execute(again, PROOF).returncode == 0


def test_what_makes_room_is_removed_from_the_engine(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    cache = EnvironmentCache(tmp_path, 1)
    builder = DockerBuilder(cache, environ(docker_engine))
    other = f"FROM {PYTHON_IMAGE}\nRUN echo other > /other\n"
    first = run(provide_to("run 1", cache, builder, spec(RUNS)))

    run(provide_to("run 2", cache, builder, spec(other)))
    kept = images(docker_engine, tmp_path)
    cache.release("run 1")

    async def make_room() -> None:
        await cache.make_room()
        await cache.sweep()

    run(make_room())

    assert len(kept) == 2
    assert first.lock is not None
    assert f"{REPOSITORY}:{first.lock.hash[:16]}" in kept
    assert f"{REPOSITORY}:{first.lock.hash[:16]}" not in images(docker_engine, tmp_path)
    assert len(images(docker_engine, tmp_path)) == 1
    assert docker_engine.docker("images", "-q", PYTHON_IMAGE).stdout


def test_engine_that_dies_in_the_middle(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An engine of its own: others would lose theirs."""
    with contextlib.contextmanager(start_engine)(tmp_path_factory.mktemp("docker")) as engine:
        folder = tmp_path_factory.mktemp("environments")
        builder = DockerBuilder(EnvironmentCache(folder), environ(engine))

        async def kill_engine() -> None:
            log = Log()
            task = asyncio.create_task(provide(builder, spec(SLEEPS), log))
            await log.says("\nhere\n")
            await asyncio.to_thread(engine.kill)
            with pytest.raises(EnvironmentFailed, match="went away in the middle"):
                await task

        run(kill_engine())
        engine.start()

        assert images(engine, folder) == []
        assert execute(run(provide(builder, spec(RUNS))), PROOF).returncode == 0


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
