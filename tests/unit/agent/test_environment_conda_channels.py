"""Conda channels that are slow, damaged, elsewhere or not there."""

from __future__ import annotations

import asyncio
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

from contract.environment_case import kill_source
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.protocol import ProvidedEnvironment
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentSpec
from support.conda_bench import LIMIT_S, Bench, execute
from support.conda_channel import CondaChannel


@pytest.fixture
def bench(tmp_path: Path, conda_channel: CondaChannel) -> Bench:
    return Bench(tmp_path, conda_channel.url, conda_channel.cache)


@pytest.mark.parametrize("channel", ["file:///nowhere/channel", "http://127.0.0.1:9/channel"])
def test_channel_that_cannot_be_read_is_named(channel: str, bench: Bench) -> None:
    failed = bench.fail("ryleaf", channels=[bench.channel, channel])

    assert f"the conda channel {channel} can't be read" in failed.message
    assert failed.metadata == {"channel": channel}


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
    source = kill_source(CondaBuilder, spec, bench.root, bench.environ)
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
