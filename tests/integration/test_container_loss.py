"""Runs in containers whose client, supervisor, engine or container is killed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from support.contained import Contained, python
from support.docker_engine import DockerEngine
from support.supervised import DEADLINE_S, Bundle, Peer, supervised_node

READY = "print('ready', flush=True)\nimport time\ntime.sleep(99)\n"
COUNTS = (
    "import os,time\n"
    "for i in range(60):\n"
    "    print(i, flush=True)\n"
    "    while i == 20 and not os.path.exists('go'): time.sleep(.01)\n"
)
ALL = "".join(f"{number}\n" for number in range(60)).encode()


@pytest.fixture
def contained(docker_engine: DockerEngine) -> Iterator[Contained]:
    with supervised_node() as node:
        yield Contained(docker_engine, node)


@pytest.fixture
def peer(contained: Contained) -> Peer:
    return contained.node.slot()


@pytest.fixture
def running_engine(docker_engine: DockerEngine) -> Iterator[DockerEngine]:
    """The engine, which a test may kill: it runs again afterwards."""
    yield docker_engine
    if docker_engine.docker("version", check=False).returncode != 0:
        docker_engine.kill()
        docker_engine.start()


def client_pid(bundle: Bundle) -> int:
    pid: int = bundle.record("state.json")["pid"]
    return pid


def test_a_killed_client_takes_the_container_with_it(contained: Contained, peer: Peer) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")

    contained.node.kill(client_pid(bundle))
    end = peer.finish(bundle)

    assert (end["reason"], end["signal"]) == ("signaled", 9)
    assert contained.leftovers(bundle) == []


def test_the_slot_is_free_after_a_killed_client(contained: Contained, peer: Peer) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")
    contained.node.kill(client_pid(bundle))
    peer.finish(bundle)

    second, end = contained.run(peer, ["echo", "again"])

    assert (end["exit_code"], second.read("stdout")) == (0, b"again\n")


def test_a_killed_slot_supervisor_takes_the_container_with_it(
    contained: Contained, peer: Peer
) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")

    contained.node.kill(contained.node.slot_pid())
    reply = contained.node.ask(op="recover", bundle=str(bundle.path))

    assert reply["exit"]["reason"] == "supervisor_lost"
    assert bundle.read("stdout") == b"ready\n"
    assert contained.leftovers(bundle) == []


def test_a_container_outlives_the_warm_parent(contained: Contained, peer: Peer) -> None:
    bundle = contained.spawn(peer, python(COUNTS))
    peer.wait_for_bytes(bundle, b"20\n")

    contained.node.kill(contained.node.parent_pid)
    contained.node.start()
    (bundle.path / "work" / "go").touch()
    end = peer.finish(bundle)

    assert (end["exit_code"], bundle.read("stdout")) == (0, ALL)


def test_a_container_that_somebody_removes_ends_the_run(contained: Contained, peer: Peer) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")

    contained.engine.docker("rm", "-f", contained.name(bundle))
    end = peer.finish(bundle)

    assert (end["reason"], end["exit_code"]) == ("container_lost", None)
    assert end["error"]["message"] == "its container was removed by somebody"


@pytest.mark.parametrize("shell", ["/bin/sh", ""], ids=["with shell", "without"])
def test_a_run_outlives_its_engine(
    contained: Contained, peer: Peer, running_engine: DockerEngine, shell: str
) -> None:
    bundle = contained.spawn(peer, python(COUNTS), shell=shell)
    peer.wait_for_bytes(bundle, b"20\n")

    running_engine.kill()
    running_engine.start()
    (bundle.path / "work" / "go").touch()
    end = peer.finish(bundle)

    assert (end["reason"], end["exit_code"]) == ("exited", 0), end["error"]
    assert bundle.read("stdout") == ALL
    assert contained.leftovers(bundle) == []


def test_the_slot_is_held_while_no_engine_says_that_the_container_is_gone(
    contained: Contained, peer: Peer, running_engine: DockerEngine
) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")

    running_engine.kill()
    contained.node.kill(client_pid(bundle))
    stuck = peer.wait_for("stuck", bundle=str(bundle.path))
    assert stuck["pids"] == []
    assert not (bundle.path / "exit.json").exists()
    running_engine.start()
    end = peer.finish(bundle)

    assert (end["reason"], end["signal"]) == ("signaled", 9)
    assert contained.leftovers(bundle) == []


def test_an_engine_that_takes_the_container_with_it_is_told(
    contained: Contained, peer: Peer, running_engine: DockerEngine
) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")
    inside = contained.engine.docker(
        "inspect", "-f", "{{.State.Pid}}", contained.name(bundle)
    ).stdout.strip()

    running_engine.kill()
    os.kill(int(inside), 9)
    running_engine.start()
    end = peer.finish(bundle)

    assert end["reason"] == "container_lost"
    assert "the container engine went away" in end["error"]["message"]
    assert contained.leftovers(bundle) == []


def test_a_lost_run_waits_for_its_engine(
    contained: Contained, peer: Peer, running_engine: DockerEngine
) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.wait_for_bytes(bundle, b"ready")

    running_engine.kill()
    contained.node.kill(contained.node.slot_pid())
    refused = contained.node.ask(op="recover", bundle=str(bundle.path))
    assert refused["why"] == "the container engine does not answer"
    running_engine.start()
    reply = contained.node.ask(op="recover", bundle=str(bundle.path))
    deadline_s = time.monotonic() + DEADLINE_S
    while not reply["ok"] and time.monotonic() < deadline_s:  # its next try may be still to come
        reply = contained.node.ask(op="recover", bundle=str(bundle.path))

    assert reply["exit"]["reason"] == "supervisor_lost"
    assert contained.leftovers(bundle) == []


def test_a_cancel_before_the_start_starts_nothing_that_stays(
    contained: Contained, peer: Peer
) -> None:
    bundle = contained.spawn(peer, python(READY))
    peer.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=20.0)

    end = peer.finish(bundle)

    assert end["stopped_by"] == "cancel"
    assert contained.leftovers(bundle) == []


def test_a_client_killed_at_any_moment_leaves_no_container(
    contained: Contained, peer: Peer
) -> None:
    for pause_ms in range(0, 400, 40):
        bundle = contained.spawn(peer, python(READY))
        started = peer.wait_for("started", bundle=str(bundle.path))
        subprocess.run(["sleep", str(pause_ms / 1000)], check=True)  # the moment is what varies
        contained.node.kill(started["pid"])
        peer.finish(bundle)

        assert contained.leftovers(bundle) == [], f"killed after {pause_ms} ms"
