"""Container images by name: found, looked into, pinned, and refused with what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from contract.environment_case import Log, provide, run
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.docker_builds import PROBES_NAME
from runyard_agent.environments.docker_work import WORK, work_labels
from runyard_agent.environments.lock import make_lock
from runyard_agent.environments.protocol import EnvironmentFailed
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec
from support.docker_engine import BARE_IMAGE, PYTHON_IMAGE, SHELL_IMAGE, DockerEngine


def spec(image: str, interpreter: str = "") -> EnvironmentSpec:
    return EnvironmentSpec(docker=DockerImage(image=image, interpreter_path=interpreter))


def builder(folder: Path, host: str) -> DockerBuilder:
    return DockerBuilder(
        EnvironmentCache(folder), {"PATH": os.environ["PATH"], "DOCKER_HOST": host}
    )


def failure(folder: Path, host: str, wanted: EnvironmentSpec) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(builder(folder, host), wanted))
    return caught.value


def test_tells_what_is_in_an_image(tmp_path: Path, docker_engine: DockerEngine) -> None:
    provided = run(provide(builder(tmp_path, docker_engine.url), spec(PYTHON_IMAGE)))

    assert provided.python.startswith(b"/usr/local/bin/python3")
    assert provided.env[b"PATH"] == b"/usr/local/bin:/usr/bin:/bin"
    assert provided.container is not None
    assert provided.container.engine == str(docker_engine.socket)
    assert provided.container.image.startswith("sha256:")
    assert provided.container.shell == "/bin/sh"


def test_image_without_python_has_none(tmp_path: Path, docker_engine: DockerEngine) -> None:
    made = builder(tmp_path, docker_engine.url)

    shell = run(provide(made, spec(SHELL_IMAGE)))
    bare = run(provide(made, spec(BARE_IMAGE)))

    assert (shell.python, bare.python) == (b"", b"")
    assert shell.container is not None
    assert shell.container.shell == "/bin/sh"
    assert bare.container is not None
    assert bare.container.shell == ""


def test_interpreter_that_was_asked_for_and_is_none(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    gone = failure(tmp_path, docker_engine.url, spec(PYTHON_IMAGE, "/opt/gone/python"))
    broken = failure(tmp_path, docker_engine.url, spec(PYTHON_IMAGE, "/bin/false"))

    assert gone.message == (
        f"the interpreter /opt/gone/python does not exist in image {PYTHON_IMAGE}"
    )
    assert "is no working Python: it ended with 1" in broken.message
    assert "interpreter_path" in broken.advice


def test_looks_leave_no_container(tmp_path: Path, docker_engine: DockerEngine) -> None:
    run(provide(builder(tmp_path, docker_engine.url), spec(PYTHON_IMAGE)))

    assert docker_engine.containers(f"label={WORK}={work_labels(tmp_path)[WORK]}") == []


def test_lock_keeps_the_image_whatever_its_name_means_later(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    made = builder(tmp_path, docker_engine.url)
    docker_engine.docker("tag", PYTHON_IMAGE, "runyard-test/moves:1")
    first = run(provide(made, spec("runyard-test/moves:1")))
    docker_engine.docker("tag", SHELL_IMAGE, "runyard-test/moves:1")
    assert first.lock is not None

    again = run(provide(made, spec("runyard-test/moves:1"), locks=[first.lock]))
    anew = run(provide(made, spec("runyard-test/moves:1")))

    assert again == first
    assert anew.container != first.container
    docker_engine.docker("rmi", "runyard-test/moves:1")


def test_lock_of_an_image_that_is_only_elsewhere(
    tmp_path: Path, docker_engine: DockerEngine
) -> None:
    made = builder(tmp_path, docker_engine.url)
    known = run(provide(made, spec(PYTHON_IMAGE))).lock
    assert known is not None
    image = known.text.partition("id: ")[2].strip()
    lock = make_lock(known.platform, known.text.replace(image, f"sha256:{'0' * 64}"), 1)

    with pytest.raises(EnvironmentFailed) as caught:
        run(provide(made, spec(PYTHON_IMAGE), locks=[lock]))

    assert "not on this node" in caught.value.message
    assert f"docker save {PYTHON_IMAGE}" in caught.value.advice


def test_second_time_is_fast_and_loads_no_sdk(tmp_path: Path, docker_engine: DockerEngine) -> None:
    first = run(provide(builder(tmp_path, docker_engine.url), spec(PYTHON_IMAGE)))
    assert first.lock is not None
    made = builder(tmp_path, docker_engine.url)

    async def best_of(times: int) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await provide(made, spec(PYTHON_IMAGE), locks=[first.lock] if first.lock else [])
            taken.append(time.perf_counter() - began)
        return min(taken)

    assert run(best_of(20)) < 0.05
    assert "docker" not in sys.modules


def test_damaged_memory_of_images_costs_a_look(tmp_path: Path, docker_engine: DockerEngine) -> None:
    first = run(provide(builder(tmp_path, docker_engine.url), spec(PYTHON_IMAGE)))
    for garbage in (b"\x00\xff", b"[]", b'{"a": 1}', json.dumps({"a": {"python": ""}}).encode()):
        (tmp_path / PROBES_NAME).write_bytes(garbage)

        again = run(provide(builder(tmp_path, docker_engine.url), spec(PYTHON_IMAGE)))

        assert (again.python, again.container) == (first.python, first.container)


def test_no_engine(tmp_path: Path) -> None:
    failed = failure(tmp_path, f"unix://{tmp_path}/none.sock", spec(PYTHON_IMAGE))

    assert failed.message == f"no Docker engine answers at {tmp_path}/none.sock"
    assert "systemctl start docker" in failed.advice


def test_engine_that_is_not_on_this_node(tmp_path: Path) -> None:
    failed = failure(tmp_path, "tcp://10.0.0.1:2375", spec(PYTHON_IMAGE))

    assert "tcp://10.0.0.1:2375" in failed.message
    assert "DOCKER_HOST" in failed.advice


def test_image_of_another_architecture(tmp_path: Path, docker_engine: DockerEngine) -> None:
    name = "runyard-test/foreign:1"
    load_as_foreign(docker_engine, tmp_path, name)

    failed = failure(tmp_path, docker_engine.url, spec(name))

    assert f"image {name} is for linux/s390x, and this node runs linux/" in failed.message
    docker_engine.docker("rmi", name)


def load_as_foreign(engine: DockerEngine, folder: Path, name: str) -> None:
    """Loads the bare image as one for another architecture, as a registry would give it."""
    saved, edited = folder / "saved", folder / "edited.tar"
    saved.mkdir()
    engine.docker("save", "-o", str(folder / "saved.tar"), BARE_IMAGE)
    with tarfile.open(folder / "saved.tar") as tar:
        tar.extractall(saved, filter="data")
    manifest = json.loads((saved / "manifest.json").read_bytes())
    config = saved / manifest[0]["Config"]
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "architecture": "s390x"}))
    manifest[0]["RepoTags"] = [name]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    (saved / "repositories").unlink(missing_ok=True)
    with tarfile.open(edited, "w") as tar:
        tar.add(saved, ".")
    engine.docker("load", "-i", str(edited))


def test_name_that_can_be_none(tmp_path: Path, docker_engine: DockerEngine) -> None:
    failed = failure(tmp_path, docker_engine.url, spec("Not An Image"))

    assert failed.message == '"Not An Image" is no name of an image'


def test_agent_without_the_sdk_names_the_extra(tmp_path: Path, docker_engine: DockerEngine) -> None:
    code = f"""
import asyncio, importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "docker" else real(name, *more)
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from integration.test_docker_images import failure, spec
from pathlib import Path
print(failure(Path({str(tmp_path)!r}), {docker_engine.url!r}, spec("runyard-test/none")).advice)
"""

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert "pip install 'runyard[docker]'" in ended.stdout


def test_log_tells_of_a_fetch(tmp_path: Path, docker_engine: DockerEngine) -> None:
    log = Log()

    with pytest.raises(EnvironmentFailed):
        run(provide(builder(tmp_path, docker_engine.url), spec("runyard-test/none:2"), log))

    assert "runyard-test/none:2 is not on this node; fetching it" in log.text
    assert "Failed: " in log.text
    assert log.doing[0] == "fetching image runyard-test/none:2"
