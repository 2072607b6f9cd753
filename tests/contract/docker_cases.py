"""The container builder's cases for the suite: what it builds of a Dockerfile, pip and conda."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.environment_case import BuildingCase, kill_source
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.docker_builds import LABEL
from runyard_agent.environments.docker_work import work_labels
from runyard_agent.environments.records import READY_NAME
from runyardpb.v1.environments_pb2 import (
    CondaPackages,
    DockerImage,
    EnvironmentSpec,
    PipPackages,
)
from support.conda_channel import CondaChannel
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.packages import WAIT_LIMIT_S, Gate, make_sdist, make_wheel

BROKEN = "def before_wheel():\n    raise SystemExit('gcc: command not found')\n"


class SocketGate:
    """As `packages.Gate`, for builds that see no file of the node: they connect to a port."""

    def __init__(self) -> None:
        self.entered = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(WAIT_LIMIT_S)
        self._is_open = threading.Event()
        self._arrived = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._inside: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    @property
    def step(self) -> str:
        """An instruction of a Dockerfile that waits until it is let go on."""
        port = self._server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        return f'RUN python3 -c "{code}"\n'

    def wait_entered(self) -> None:
        """Waits until one more build has come."""
        assert self._arrived.acquire(timeout=WAIT_LIMIT_S), "no build came in time"
        self.entered += 1

    def wait_left(self) -> None:
        """Waits until no build lives any more."""
        while self._arrived.acquire(blocking=False):
            self.entered += 1
        with self._lock:
            inside, self._inside = self._inside, []
        for one in inside:
            one.settimeout(WAIT_LIMIT_S)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
            one.close()

    def open(self) -> None:
        """Lets all builds go on, those that come later too."""
        self._is_open.set()
        with self._lock:
            for one in self._inside:
                with contextlib.suppress(OSError):
                    one.send(b".")

    def close(self) -> None:
        """Ends the watching."""
        self.open()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(WAIT_LIMIT_S)
        for one in self._inside:
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                self._inside.append(connection)
                if self._is_open.is_set():
                    with contextlib.suppress(OSError):
                        connection.send(b".")
            self._arrived.release()


class Site:
    """A folder of environments and the engine that builds for it."""

    def __init__(self, engine: DockerEngine, folder: Path) -> None:
        self.root = folder / "environments"
        self.links = folder / "links"
        self.root.mkdir()
        self.links.mkdir()
        self.engine = engine
        self._folder = folder
        self._numbers = itertools.count()

    @property
    def environ(self) -> dict[str, str]:
        """An agent's variables. Caches for each: one would wait for the other's there already."""
        cache = self._folder / f"cache-{next(self._numbers)}"
        return {
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": self.engine.url,
            "RATTLER_CACHE_DIR": str(cache / "rattler"),
            "UV_CACHE_DIR": str(cache / "uv"),
        }

    def builder(self) -> DockerBuilder:
        """As after a restart of the agent."""
        return self.builder_in(EnvironmentCache(self.root))

    def builder_in(self, cache: EnvironmentCache) -> DockerBuilder:
        """The same with a cache of the test's making."""
        return DockerBuilder(cache, self.environ)

    def cut_off(self) -> DockerBuilder:
        """One whose programs, which fetch, build and install, do not start."""
        return DockerBuilder(
            EnvironmentCache(self.root), {**self.environ, "PYTHONHOME": "/nowhere"}
        )

    def built(self) -> list[Path]:
        """The images that have a name, and folders of those that were not finished.

        Not the conda environments that images were made of.
        """
        folders = [path for path in self.root.iterdir() if path.is_dir()]
        unfinished = [path for path in folders if not (path / READY_NAME).exists()]
        return [*unfinished, *map(Path, self.images("{{.Repository}}:{{.Tag}}"))]

    def images(self, shown: str = "{{.ID}}") -> list[str]:
        """The images with a name that were built for this folder."""
        filters = ("--filter", f"label={LABEL}={self.root}", "--filter", "dangling=false")
        return self.engine.docker("images", "--format", shown, *filters).stdout.split()

    def left(self) -> list[str]:
        """Containers in which something is looked at or made for this folder."""
        (label,) = work_labels(self.root).items()
        return self.engine.containers(f"label={'='.join(label)}")

    def clear(self) -> None:
        """Removes the images; there must be no container left of making them."""
        left = self.left()
        if left:
            self.engine.docker("rm", "-f", *left, check=False)
        images = self.images()
        if images:
            self.engine.docker("rmi", "-f", *set(images), check=False)
        assert left == []

    @contextlib.contextmanager
    def case(self, gate: Any, **fields: Any) -> Iterator[BuildingCase]:
        """The case, with what is the same for all."""
        slow = fields["slow"]
        try:
            yield BuildingCase(
                make=self.builder,
                root=self.root,
                make_in=self.builder_in,
                make_cut_off=self.cut_off,
                built=self.built,
                gate=gate,
                kill_source=kill_source(DockerBuilder, slow, self.root, self.environ),
                **fields,
            )
        finally:
            gate.close()
            self.clear()


@contextlib.contextmanager
def dockerfile_case(site: Site) -> Iterator[BuildingCase]:
    """Images that a Dockerfile makes."""
    gate = SocketGate()
    mark = os.urandom(4).hex()  # else the engine would have the steps of another test

    def spec(text: str, **options: Any) -> EnvironmentSpec:
        docker = DockerImage(dockerfile=f"FROM {PYTHON_IMAGE}\n{text}", network="host", **options)
        return EnvironmentSpec(docker=docker)

    good = f"RUN echo {mark} > /built\n"
    missing = "runyard-test/nowhere:1"
    with site.case(
        gate,
        good=spec(good),
        same=spec(good, shm_bytes=1 << 20),
        other=spec(f"RUN echo {mark} > /other\n"),
        proof=f"assert open('/built').read() == '{mark}\\n'",
        missing=EnvironmentSpec(docker=DockerImage(dockerfile=f"FROM {missing}\n")),
        missing_name=missing,
        slow=spec(f"ENV RY={mark}\n{gate.step}"),
        broken=spec("RUN rybroken\n"),
        broken_name="RUN rybroken",
    ) as case:
        yield case


@contextlib.contextmanager
def pip_case(site: Site) -> Iterator[BuildingCase]:
    """pip packages on top of an image."""
    links = site.links
    gate = Gate(links)  # which containers see while something is built in them
    make_wheel(links, "ryleaf", "1.0")
    make_wheel(links, "rytop", "1.0", requires=["ryleaf"])
    make_wheel(links, "ryold", "1.0", requires=["ryleaf<2"])
    make_wheel(links, "ryslow", "1.0", at_start=gate.at_start)
    make_sdist(links, "rybroken", "1.0", BROKEN)

    def spec(*requirements: str) -> EnvironmentSpec:
        pip = PipPackages(
            requirements=requirements,
            index_options=["--no-index", f"--find-links={links}"],
        )
        return EnvironmentSpec(docker=DockerImage(image=PYTHON_IMAGE, network="none", pip=pip))

    with site.case(
        gate,
        good=spec("rytop"),
        same=spec("rytop>=1", "ryleaf"),
        other=spec("ryleaf"),
        proof="import ryleaf, rytop, sys; assert sys.prefix == '/opt/runyard/environment'",
        missing=spec("rytop", "rynowhere"),
        missing_name="rynowhere",
        slow=spec("ryslow", "rytop"),
        broken=spec("rytop", "rybroken"),
        broken_name="rybroken",
    ) as case:
        yield case


@contextlib.contextmanager
def conda_case(site: Site, channel: CondaChannel) -> Iterator[BuildingCase]:
    """conda packages on top of an image without Python."""
    links = site.links
    gate = Gate(links)
    make_sdist(links, "ryslow", "1.0", gate.before_wheel)
    make_sdist(links, "rybroken", "1.0", BROKEN)

    def spec(*packages: str, pip: str = "") -> EnvironmentSpec:
        conda = CondaPackages(
            packages=packages,
            channels=[channel.url],
            pip_requirements=[pip] if pip else [],
            pip_index_options=["--no-index", f"--find-links={links}"],
        )
        return EnvironmentSpec(docker=DockerImage(image=SHELL_IMAGE, network="none", conda=conda))

    with site.case(
        gate,
        good=spec("rytop"),
        same=spec("rytop>=1", "ryleaf"),
        other=spec("ryleaf"),
        proof="import os, sys, ryleaf, rytop; assert sys.prefix == os.environ['CONDA_PREFIX']",
        missing=spec("rytop", "rynowhere"),
        missing_name="rynowhere",
        slow=spec("rytop", pip="ryslow"),
        broken=spec("rytop", "rybroken"),
        broken_name="rybroken",
    ) as case:
        yield case
