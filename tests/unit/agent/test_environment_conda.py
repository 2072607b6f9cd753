from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from contract.environment_builder_suite import Log
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.lock import make_lock
from runyard_agent.environments.protocol import EnvironmentFailed, ProvidedEnvironment
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentLock, EnvironmentSpec
from support.conda_channel import PYTHON_VERSION, CondaChannel
from support.packages import make_sdist, make_wheel

LIMIT_S = 60.0
BROKEN = "def before_wheel():\n    raise SystemExit('gcc: command not found')\n"
KILLED = """
import asyncio
from pathlib import Path
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyardpb.v1.environments_pb2 import EnvironmentSpec

class Log:
    def write(self, data):
        pass

spec = EnvironmentSpec.FromString({spec!r})
builder = CondaBuilder(EnvironmentCache(Path({root!r})), {environ!r})
asyncio.run(builder.provide(spec, (), log=Log(), progress=lambda doing: None))
"""


class Bench:
    """A builder over a folder of its own, with packages from one channel.

    `cache` keeps packages of the channel over tests. Default: one of its own.
    """

    def __init__(self, folder: Path, channel: str, cache: Path | None = None) -> None:
        self.root = folder / "environments"
        self.root.mkdir()
        self.channel = channel
        self.links = folder / "links"
        self.links.mkdir()
        self.log = Log()
        self.environ = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "RATTLER_CACHE_DIR": str(cache or folder / "cache"),
            "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"],
        }
        self.builder = CondaBuilder(EnvironmentCache(self.root), self.environ)

    async def provide(
        self, *packages: str, locks: tuple[EnvironmentLock, ...] = (), **more: Any
    ) -> ProvidedEnvironment:
        wish = {
            "channels": [self.channel],
            "pip_index_options": ["--no-index", f"--find-links={self.links}"],
            **more,
        }
        spec = EnvironmentSpec(conda=CondaPackages(packages=packages, **wish))
        return await self.builder.provide(spec, locks, log=self.log, progress=lambda doing: None)

    def get(self, *packages: str, **more: Any) -> ProvidedEnvironment:
        return asyncio.run(asyncio.wait_for(self.provide(*packages, **more), LIMIT_S))

    def fail(self, *packages: str, **more: Any) -> EnvironmentFailed:
        with pytest.raises(EnvironmentFailed) as caught:
            self.get(*packages, **more)
        assert caught.value.advice
        assert caught.value.message in self.log.text
        return caught.value

    def folders(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_dir()]


@pytest.fixture
def bench(tmp_path: Path, conda_channel: CondaChannel) -> Bench:
    return Bench(tmp_path, conda_channel.url, conda_channel.cache)


def execute(provided: ProvidedEnvironment, code: str) -> str:
    ended = subprocess.run(
        [provided.python, "-c", code],
        env=dict(provided.env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_python_version_and_packages_are_those_asked_for(bench: Bench) -> None:
    minor = PYTHON_VERSION.rpartition(".")[0]
    provided = bench.get("ryleaf=1", python_version=minor)

    said = execute(provided, "import ryleaf, sys; print(ryleaf.VERSION, sys.prefix)")

    assert said == f"1.0 {os.fsdecode(provided.env[b'CONDA_PREFIX'])}"
    assert f"python {PYTHON_VERSION} 0_ry" in bench.log.text


def test_lock_is_an_explicit_list_with_hashes(bench: Bench) -> None:
    make_wheel(bench.links, "ryabove", "1.0", requires=["ryleaf"])

    lock = bench.get("ryleaf=1", pip_requirements=["ryabove"]).lock

    assert lock is not None
    assert lock.platform.startswith("linux-")
    lines = [line for line in lock.text.splitlines() if not line.startswith("#")]
    assert lines[0] == "@EXPLICIT"
    assert all("#sha256:" in line for line in lines[1:])
    assert lines[2].startswith(f"{bench.channel}/noarch/ryleaf-1.0-0_ry.conda#")
    assert "# pip ryabove==1.0\n" in lock.text


def test_pip_packages_take_what_conda_brings(bench: Bench) -> None:
    make_wheel(bench.links, "ryabove", "1.0", requires=["ryleaf>=1"])
    make_wheel(bench.links, "ryleaf", "2.5")

    provided = bench.get("ryleaf=1", pip_requirements=["ryabove"])

    said = execute(provided, "import ryabove, ryleaf; print(ryabove.VERSION, ryleaf.VERSION)")
    assert said == "1.0 1.0"
    assert bench.folders() == [Path(os.fsdecode(provided.env[b"CONDA_PREFIX"]))]


@pytest.mark.parametrize("name", ["rynowhere", "rybroken"], ids=["resolving", "building"])
def test_pip_fault_is_said_once(name: str, bench: Bench) -> None:
    make_sdist(bench.links, "rybroken", "1.0", BROKEN)

    failed = bench.fail("ryleaf", pip_requirements=[name])

    assert failed.metadata["package"] == name
    assert bench.log.text.count("Failed:") == 1
    assert bench.folders() == []


def test_pip_constraints_count(bench: Bench) -> None:
    for version in ("1.0", "2.0"):
        make_wheel(bench.links, "ryabove", version)

    provided = bench.get("ryleaf", pip_requirements=["ryabove"], pip_constraints=["ryabove<2"])

    assert execute(provided, "import ryabove; print(ryabove.VERSION)") == "1.0"


def test_pip_replaces_what_conda_brings_where_it_is_asked_to(bench: Bench) -> None:
    make_wheel(bench.links, "ryleaf", "2.5")

    provided = bench.get("ryleaf=1", pip_requirements=["ryleaf>=2"])
    plain = bench.get("ryleaf=1")

    assert execute(provided, "import ryleaf; print(ryleaf.VERSION)") == "2.5"
    # Their files are links to the same in a cache; none was changed in place.
    assert execute(plain, "import ryleaf; print(ryleaf.VERSION)") == "1.0"


def test_activation_variables_are_given_without_its_path(bench: Bench) -> None:
    provided = bench.get("ryactive")
    assert provided.lock is not None
    again = bench.get("ryactive", locks=(provided.lock,))

    prefix = provided.env[b"CONDA_PREFIX"]
    assert dict(provided.env) == {
        b"CONDA_PREFIX": prefix,
        b"CONDA_DEFAULT_ENV": prefix,
        b"RY_DATA": prefix + b"/share/ry data",
        b"RY_VALUE": b"one two",
    }
    assert again == provided
    assert bench.log.text.count("activating\n") == 1


@pytest.mark.parametrize("damage", ["missing", "cut off", "of another form"])
def test_lost_variables_of_the_activation_are_computed_again(bench: Bench, damage: str) -> None:
    first = bench.get("ryactive")
    assert first.lock is not None
    (path,) = bench.root.glob("*/activation.json")
    if damage == "missing":
        path.unlink()
    else:
        path.write_text('{"format": 9}' if damage == "of another form" else path.read_text()[:40])

    again = bench.get("ryactive", locks=(first.lock,))

    assert again.env == first.env
    assert "computing them again" in bench.log.text
    assert "Building environment" not in bench.log.text.partition("computing them again")[2]


@pytest.mark.parametrize(
    ("packages", "message", "metadata"),
    [
        (["rynowhere"], 'package "rynowhere" was not found in the conda channels (file://', {}),
        (["rydep"], "(needed by rydep 1.0)", {"package": "rygone"}),
        (["ryleaf=3"], "there is no version ryleaf 3.*", {"package": "ryleaf", "newest": "2.0"}),
        (["ryleaf", "python=3.5"], "there is no version python 3.5.*", {"package": "python"}),
        (
            ["rytop", "rynew"],
            "contradict each other: rynew 1.0 needs ryleaf >=2; rytop 1.0 needs ryleaf <2",
            {},
        ),
        (["rytop", "ryleaf>=2"], "rytop 1.0 needs ryleaf <2; you ask for ryleaf>=2", {}),
        (["ryleaf=1", "ryleaf=2"], "ryleaf 2.* and ryleaf 1.*", {}),
        (["rycuda"], "lacks an NVIDIA driver for CUDA (__cuda >=12)", {"package": "__cuda"}),
        (["rybroken"], "the conda package rybroken", {"package": "rybroken"}),
    ],
)
def test_fault_is_named(
    packages: list[str], message: str, metadata: dict[str, str], bench: Bench
) -> None:
    failed = bench.fail(*packages)

    assert message in failed.message
    assert metadata.items() <= failed.metadata.items()
    assert bench.folders() == []


@pytest.mark.parametrize("channel", ["file:///nowhere/channel", "http://127.0.0.1:9/channel"])
def test_channel_that_cannot_be_read_is_named(channel: str, bench: Bench) -> None:
    failed = bench.fail("ryleaf", channels=[bench.channel, channel])

    assert f"the conda channel {channel} can't be read" in failed.message
    assert failed.metadata == {"channel": channel}


def test_missing_rattler_is_named_with_the_extra(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)  # as if it were not installed

    failed = bench.fail("ryleaf")

    assert "py-rattler" in failed.message
    assert "pip install 'runyard[conda]'" in failed.advice


def test_lock_of_a_node_with_more_is_refused(bench: Bench) -> None:
    lock = bench.get("ryleaf").lock
    assert lock is not None
    text = lock.text.replace("@EXPLICIT", "# needs __glibc >=99\n@EXPLICIT")

    failed = bench.fail("ryleaf", locks=(make_lock(lock.platform, text, 0),))

    assert "lacks the C library glibc (__glibc >=99); it has __glibc " in failed.message


def test_lock_of_another_form_is_refused(bench: Bench) -> None:
    lock = bench.get("ryleaf").lock
    assert lock is not None
    changed = make_lock(lock.platform, lock.text.replace("format 1", "format 2"), 0)

    assert "another version of runyard" in bench.fail("ryleaf", locks=(changed,)).message


class Holding(SimpleHTTPRequestHandler):
    """Serves a channel; what it holds back comes when the test says so, or never."""

    def __init__(self, *arguments: Any, of: HeldChannel, **more: Any) -> None:
        self.held = of
        super().__init__(*arguments, **more)

    def do_GET(self) -> None:
        if self.held.holds in self.path:
            self.held.entered.set()
            ready, _, _ = select.select([self.connection, self.held.released], [], [], LIMIT_S)
            if self.held.released not in ready:
                self.held.left.set()
                self.close_connection = True
                return
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


class HeldChannel:
    """A channel behind HTTP that holds files back whose path has `holds`.

    `entered` is set when one is asked for, `left` when who asked is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.holds = "no such file"
        self.entered, self.left = threading.Event(), threading.Event()
        self.released, self._release = os.pipe()
        handler: Callable[..., Any] = partial(Holding, of=self, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def release(self) -> None:
        """Lets everything come, now and later."""
        os.write(self._release, b".")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        os.close(self.released)
        os.close(self._release)


@pytest.fixture
def held(conda_channel: CondaChannel) -> Iterator[HeldChannel]:
    channel = HeldChannel(conda_channel.folder)
    yield channel
    channel.close()


@pytest.mark.parametrize("holds", ["repodata", ".conda"], ids=["solving", "installing"])
def test_cancel_ends_rattler_and_leaves_nothing(
    holds: str, held: HeldChannel, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, held.url)
    held.holds = holds

    async def cancel() -> None:
        task = asyncio.create_task(bench.provide("ryleaf"))
        assert await asyncio.to_thread(held.entered.wait, LIMIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(held.left.wait, LIMIT_S)

    asyncio.run(asyncio.wait_for(cancel(), LIMIT_S))
    assert bench.folders() == []

    held.release()
    assert execute(bench.get("ryleaf"), "import ryleaf; print(ryleaf.VERSION)") == "2.0"


def test_install_of_a_killed_agent_is_waited_for_and_not_used(
    held: HeldChannel, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, held.url)
    held.holds = ".conda"
    spec = EnvironmentSpec(conda=CondaPackages(packages=["ryleaf"], channels=[held.url]))
    source = KILLED.format(
        spec=spec.SerializeToString(), root=str(bench.root), environ=bench.environ
    )
    agent = subprocess.Popen([sys.executable, "-c", source])
    assert held.entered.wait(LIMIT_S)
    agent.kill()
    agent.wait()

    async def restart() -> ProvidedEnvironment:
        task = asyncio.create_task(bench.provide("ryleaf"))
        await bench.log.says("waiting for it")
        held.release()  # what the killed agent had started goes on, and ends
        return await task

    provided = asyncio.run(asyncio.wait_for(restart(), LIMIT_S))

    assert "Building" in bench.log.text
    assert execute(provided, "import ryleaf; print(ryleaf.VERSION)") == "2.0"


def test_download_that_is_not_the_locked_one_is_refused(held: HeldChannel, tmp_path: Path) -> None:
    bench = Bench(tmp_path, held.url)

    failed = bench.fail("rybroken")

    assert "rybroken" in failed.message
    assert "checksum differs" in failed.message
    assert bench.folders() == []


def test_lock_names_what_a_package_says_of_itself(bench: Bench) -> None:
    lock = bench.get("rytop").lock
    assert lock is not None

    abouts = [
        json.loads(line.removeprefix("# about "))
        for line in lock.text.splitlines()
        if line.startswith("# about ")
    ]

    # What others depend on comes first.
    assert [about["name"] for about in abouts] == ["python", "ryleaf", "rytop"]
    assert abouts[-1]["depends"] == ["python", "ryleaf <2", "__unix"]
    assert "# needs __unix\n" in lock.text


def test_mirrors_are_tried_in_order_and_the_lock_names_the_channel(
    bench: Bench, tmp_path: Path
) -> None:
    channel = f"file://{tmp_path}/not-here"  # only its mirrors exist
    gone = f"file://{tmp_path}/gone"
    mirrors = {channel: [gone, bench.channel]}
    bench.builder = CondaBuilder(EnvironmentCache(bench.root), bench.environ, mirrors)

    provided = bench.get("ryleaf=1", channels=[channel])

    assert provided.lock is not None
    assert f"{channel}/noarch/ryleaf-1.0-0_ry.conda" in provided.lock.text
    assert f"{gone} can't be read; trying another mirror" in bench.log.text


def test_channel_none_of_whose_mirrors_can_be_read_is_named_with_the_last(
    bench: Bench, tmp_path: Path
) -> None:
    gone = f"file://{tmp_path}/gone"
    mirrors = {"conda-forge": [gone]}
    bench.builder = CondaBuilder(EnvironmentCache(bench.root), bench.environ, mirrors)

    failed = bench.fail("ryleaf=1", channels=["conda-forge"])

    assert f"conda-forge (its mirror {gone}) can't be read" in failed.message
