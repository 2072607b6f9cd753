"""pip packages on top of an image: resolved for its Python, installed once, nothing else in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.environment_case import Log, execute, provide, run
from integration.test_docker_builds import environ, images
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec, PipPackages
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.packages import make_wheel

PROOF = "import ryleaf, rytop, sys; assert sys.prefix == '/opt/runyard/environment'"


@pytest.fixture
def make(tmp_path: Path, docker_engine: DockerEngine) -> Iterator[Callable[[], DockerBuilder]]:
    """Makes builders over one folder; their images are removed at the end."""
    root, links = tmp_path / "environments", tmp_path / "links"
    root.mkdir()
    links.mkdir()
    make_wheel(links, "ryleaf", "1.0")
    make_wheel(links, "rytop", "1.0", requires=["ryleaf"])
    secret = {"UV_INDEX_MINE_PASSWORD": "hunter2"}
    yield lambda: DockerBuilder(EnvironmentCache(root), {**environ(docker_engine), **secret})
    for image in images(docker_engine, root):
        docker_engine.docker("rmi", "-f", image, check=False)


def spec(
    folder: Path, *requirements: str, image: str = PYTHON_IMAGE, dockerfile: str = ""
) -> EnvironmentSpec:
    pip = PipPackages(
        requirements=requirements,
        index_options=["--no-index", f"--find-links={folder / 'links'}"],
    )
    return EnvironmentSpec(
        docker=DockerImage(
            image="" if dockerfile else image, dockerfile=dockerfile, pip=pip, network="none"
        )
    )


def test_installs_on_top_and_builds_once(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    wanted, log = spec(tmp_path, "rytop"), Log()

    first = run(provide(make(), wanted))
    assert first.lock is not None
    again = run(provide(make(), wanted, log, [first.lock]))

    assert execute(first, PROOF).returncode == 0
    assert first == again
    assert "already built" in log.text
    assert first.python == b"/opt/runyard/environment/bin/python"
    assert first.env[b"VIRTUAL_ENV"] == b"/opt/runyard/environment"
    assert first.env[b"PATH"].startswith(b"/opt/runyard/environment/bin:")
    assert "rytop @ " in first.lock.text or "rytop==1.0" in first.lock.text
    assert "--hash=sha256:" in first.lock.text
    assert docker_engine.containers() == []


def test_image_holds_neither_secrets_nor_uv(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    provided = run(provide(make(), spec(tmp_path, "rytop")))
    assert provided.container is not None

    config = docker_engine.docker("inspect", provided.container.image).stdout
    listed = execute(provided, "import os; print(os.listdir('/'))").stdout

    assert "hunter2" not in config
    assert json.loads(config)[0]["Config"]["Entrypoint"] is None
    assert "runyard-" not in listed


def test_dockerfile_below_packages(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    text = f"FROM {PYTHON_IMAGE}\nENV MINE=1\nRUN echo below > /below\n"

    provided = run(provide(make(), spec(tmp_path, "rytop", dockerfile=text)))

    proof = f"{PROOF}; assert open('/below').read() == 'below\\n'"
    assert execute(provided, proof).returncode == 0
    assert provided.env[b"MINE"] == b"1"


def test_image_without_python_is_refused(make: Callable[[], DockerBuilder], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(make(), spec(tmp_path, "rytop", image=SHELL_IMAGE)))

    assert caught.value.message == f"image {SHELL_IMAGE} has no Python to install pip packages for"


def test_image_in_which_uv_does_not_start(
    make: Callable[[], DockerBuilder], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    """A uv whose loader is not in the image stands for one of musl."""
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text("#!/lib/no-such-loader\n")
    program.chmod(0o755)
    builder = make()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runyard_agent.environments.uv._find", lambda path: str(program))
        with pytest.raises(EnvironmentFailed) as caught:
            run(provide(builder, spec(tmp_path, "rytop")))

    assert "has no glibc" in caught.value.message
    assert "Dockerfile" in caught.value.advice


def test_packages_of_the_real_index(docker_engine: DockerEngine, tmp_path: Path) -> None:
    builder = DockerBuilder(EnvironmentCache(tmp_path), {**os.environ, **environ(docker_engine)})
    wanted = EnvironmentSpec(
        docker=DockerImage(
            image=PYTHON_IMAGE, network="host", pip=PipPackages(requirements=["six==1.17.0"])
        )
    )

    provided = run(provide(builder, wanted))

    assert execute(provided, "import six; assert six.__version__ == '1.17.0'").returncode == 0
