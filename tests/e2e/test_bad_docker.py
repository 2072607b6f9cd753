"""What goes wrong with containers, on the command line: named, with the next step, nothing left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_docker_images import load_as_foreign
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.house import House, eventually
from support.registry import registry

pytestmark = pytest.mark.slow
FOREIGN_IMAGE = "runyard-test/foreign-e2e:1"
IMAGE = f"--docker-image={PYTHON_IMAGE}"
SLEEPS = "import time; time.sleep(600)"
NO_NETWORK = "--docker-arg=--network=none"


@pytest.fixture(scope="module")
def boxed(
    shared_house: House, docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A house whose agent has the engine."""
    shared_house.environment["DOCKER_HOST"] = docker_engine.url
    load_as_foreign(docker_engine, tmp_path_factory.mktemp("foreign"), FOREIGN_IMAGE)
    yield shared_house
    docker_engine.docker("rmi", "-f", FOREIGN_IMAGE)


@pytest.fixture(scope="module")
def folder(boxed: House) -> Path:
    syntax = f"FROM {PYTHON_IMAGE}\nRUNN pip install six\n"
    files = {"train.py": "print('ran')", "Dockerfile": syntax, "sleeps.py": SLEEPS}
    made = boxed.project(files, name="bad-docker")
    # The daemon knows its nodes from now on, whichever test comes first.
    assert boxed.runyard("run", "train.py", cwd=made).returncode == 0
    return made


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param(
            ("--docker-image=REGISTRY/mine/nowhere:1",),
            ("there is no image REGISTRY/mine/nowhere:1 on this node", "docker build"),
            id="no such image",
        ),
        pytest.param(
            ("--docker-image=127.0.0.1:1/mine/nowhere:1",),
            ("its registry can't be reached (127.0.0.1:1)", "docker load"),
            id="no such registry",
        ),
        pytest.param(
            (f"--docker-image={FOREIGN_IMAGE}",),
            (f"image {FOREIGN_IMAGE} is for linux/s390x, and this node runs", "name an image"),
            id="another architecture",
        ),
        pytest.param(
            (f"--docker-image={SHELL_IMAGE}", NO_NETWORK),
            ("Python", SHELL_IMAGE),
            id="no Python",
        ),
        pytest.param(
            ("--env=Dockerfile",),
            ("Dockerfile line 2 can't be read: unknown instruction: RUNN", "correct it"),
            id="syntax error",
        ),
        pytest.param(
            (IMAGE, NO_NETWORK, "--docker-arg=--volume=/no/such:/data"),
            ("/no/such", "/data", "make it there"),
            id="missing mount",
        ),
        pytest.param(
            (IMAGE, NO_NETWORK, "--memory-limit=60TiB"),
            ("60 TiB of memory: the largest node", "--memory-limit"),
            id="memory of no node",
        ),
        pytest.param(
            (IMAGE, NO_NETWORK, "--cpu-limit=4000"),
            ("4000 CPUs: the largest node", "--cpu-limit"),
            id="cores of no node",
        ),
        pytest.param(
            (IMAGE, NO_NETWORK, "--docker-arg=--gpus=all"),
            ("the engine has no GPU runtime", "NVIDIA container toolkit"),
            id="no GPU runtime",
        ),
        pytest.param(
            (IMAGE, "--docker-arg=--network=nowhere"),
            ("the engine has no such network", "docker network ls"),
            id="no such network",
        ),
    ],
)
def test_is_named_with_the_next_step_and_leaves_nothing(
    boxed: House,
    docker_engine: DockerEngine,
    folder: Path,
    options: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    with registry() as served:
        given = [option.replace("REGISTRY", served.host) for option in options]
        done = boxed.runyard("run", *given, "train.py", cwd=folder)
        said = done.stderr.decode(errors="replace").replace(served.host, "REGISTRY")

    assert done.returncode not in (0, 1), said
    assert "Traceback" not in said
    for name in names:
        assert name in said, said
    assert docker_engine.containers() == []


def test_engine_that_dies_with_the_container_is_told_before_and_after(
    boxed: House, docker_engine: DockerEngine, folder: Path
) -> None:
    run_id = boxed.submit(IMAGE, NO_NETWORK, "sleeps.py", cwd=folder)
    boxed.wait_for_state(run_id, "Running")
    filters = (f"label=runyard.run={run_id}", "status=running")
    (container,) = eventually(lambda: docker_engine.containers(*filters), what="container")
    pid = docker_engine.docker("inspect", "-f", "{{.State.Pid}}", container).stdout

    docker_engine.kill()
    try:
        os.kill(int(pid), signal.SIGKILL)
        away = "the container engine does not answer; waiting until it is back"
        eventually(lambda: boxed.show(run_id)["status_message"] == away, what="status")
        shown = boxed.runyard("runs", "show", run_id).stdout.decode()
    finally:
        docker_engine.start()
    boxed.wait_for_state(run_id, "Failed")
    ended = boxed.runyard("runs", "show", run_id).stdout.decode()

    assert f"Running: {away}" in shown
    assert "the container engine went away and took the container with it" in ended
    assert docker_engine.containers() == []


def test_node_stays_healthy(boxed: House, docker_engine: DockerEngine, folder: Path) -> None:
    done = boxed.runyard("run", IMAGE, NO_NETWORK, "train.py", cwd=folder)

    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr


def test_no_engine(house: House) -> None:
    house.environment["DOCKER_HOST"] = "unix:///no/such/docker.sock"
    folder = house.project({"train.py": "print('ran')"})

    done = house.runyard("run", IMAGE, "train.py", cwd=folder)
    said = done.stderr.decode()

    assert done.returncode != 0
    assert "no Docker engine answers at /no/such/docker.sock" in said
    assert "systemctl start docker" in said
    assert "Traceback" not in said
