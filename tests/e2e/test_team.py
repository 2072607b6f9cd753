"""A daemon for a team: people by tokens, machines that join, a script on another machine."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.house import House, eventually

pytestmark = pytest.mark.slow

SCRIPT = """
import pathlib, sys
from helper import WORD
print(WORD, sys.argv[1], flush=True)
pathlib.Path("outputs/made.txt").write_text(WORD)
"""


@dataclass
class Team:
    """The daemon's machine, one that joins, and the laptop of somebody."""

    server: House
    node: House
    laptop: House

    def token(self, *options: str) -> dict[str, Any]:
        told: dict[str, Any] = self.server.json("daemon", "token", "create", *options)
        return told

    def log_in(self, *, role: str = "contributor", name: str = "ana") -> dict[str, Any]:
        token = self.token("--role", role, "--for", name)
        done = self.laptop.runyard(
            *("login", token["address"], "--fingerprint", token["fingerprint"], "--token-stdin"),
            line=token["token"],
        )
        assert done.returncode == 0, done.stderr
        # The daemon is that of the login, not of a data directory.
        del self.laptop.environment["RUNYARD_HOME"]
        return token

    def join(self, token: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
        return self.node.runyard(
            *("agent", "join", token["address"], "--fingerprint", token["fingerprint"]),
            line=token["token"],
        )


@contextlib.contextmanager
def serving(
    house: House, listen: str = "127.0.0.1:0", agent_listen: str = "127.0.0.1:0"
) -> Iterator[subprocess.Popen[bytes]]:
    ports = ("--listen", listen, "--agent-listen", agent_listen)
    with house.background("daemon", "serve", *ports) as process:
        eventually(
            lambda: house.runyard("daemon", "status").returncode == 0, what="the daemon serves"
        )
        yield process


@pytest.fixture
def houses() -> Iterator[Team]:
    team = Team(House(), House(), House())
    yield team
    for house in (team.laptop, team.node, team.server):
        house.close()


@pytest.fixture
def team(houses: Team) -> Iterator[Team]:
    with serving(houses.server):
        yield houses


def fixed_port() -> int:
    """A port that is free, and that nobody is given who asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def project(house: House) -> Path:
    return house.project({"train.py": SCRIPT, "helper.py": "WORD = 'there'\n"})


def test_script_runs_unchanged_on_a_machine_that_joined(team: Team) -> None:
    team.log_in()
    joined = team.join(team.token("--role", "agent", "--compute", "lab"))
    assert joined.returncode == 0, joined.stderr
    assert b"connected" in joined.stderr

    folder = project(team.laptop)
    done = team.laptop.runyard("run", "-t", "lab", "train.py", "7", cwd=folder)

    assert (done.returncode, done.stdout) == (0, b"there 7\n"), done.stderr
    fetched = team.laptop.runyard("runs", "download", "last", cwd=folder)
    assert fetched.returncode == 0
    assert [path.read_text() for path in folder.rglob("made.txt")] == ["there"]
    (target,) = [one for one in team.laptop.json("compute", "list") if one["name"] == "lab"]
    assert len(target["nodes"]) == 1


def test_run_goes_on_while_the_daemon_is_killed_and_comes_back(houses: Team) -> None:
    team = houses
    ports = (f"127.0.0.1:{fixed_port()}", f"127.0.0.1:{fixed_port()}")
    with serving(team.server, *ports) as daemon:
        team.log_in()
        team.join(team.token("--role", "agent", "--compute", "lab"))
        script = "import pathlib, time\nprint('begun', flush=True)\n"
        script += "while not pathlib.Path(%r).exists(): time.sleep(0.05)\nprint('ended')\n"
        gate = team.node.root / "gate"
        folder = team.laptop.project({"long.py": script % str(gate)})
        run_id = team.laptop.submit("-t", "lab", "long.py", cwd=folder)
        eventually(
            lambda: b"begun" in team.laptop.runyard("runs", "logs", run_id).stdout, what="begun"
        )
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    gate.touch()

    with serving(team.server, *ports):
        done = team.laptop.runyard("runs", "wait", run_id)
        log = team.laptop.runyard("runs", "logs", run_id)

    assert (done.returncode, log.stdout) == (0, b"begun\nended\n")


def test_daemon_stop_leaves_machines_that_joined_alone(team: Team) -> None:
    team.log_in()
    team.join(team.token("--role", "agent", "--compute", "lab"))
    pid = team.node.json("agent", "status")["pid"]

    assert team.server.runyard("daemon", "stop").returncode == 0

    told = eventually(
        lambda: (one := team.node.json("agent", "status"))["state"] == "disconnected" and one,
        what="the agent notices",
    )
    assert told["pid"] == pid
    failed = team.laptop.runyard("runs", "list")
    assert failed.returncode == 5
    assert b"no daemon that you trust answers" in failed.stderr


def test_machine_that_leaves_is_gone_and_its_certificate_with_it(team: Team) -> None:
    team.log_in()
    team.join(team.token("--role", "agent", "--compute", "lab"))
    kept = (team.node.home / "joined" / "membership.json").read_bytes()
    assert team.node.runyard("agent", "leave").returncode == 0
    (target,) = [one for one in team.laptop.json("compute", "list") if one["name"] == "lab"]
    assert target["nodes"] == []

    (team.node.home / "joined" / "membership.json").write_bytes(kept)  # a copy of it comes back
    team.node.runyard("agent", "start")
    told = eventually(
        lambda: (one := team.node.json("agent", "status"))["why"] and one, what="it is refused"
    )
    assert told["state"] == "disconnected"
    assert "Unauthenticated" in told["why"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fingerprint": "0" * 64}, "UNTRUSTED_DAEMON"),
        ({"token": "ry_join_nonsense"}, "SPEC_INVALID"),
        ({"address": "127.0.0.1:1"}, "DAEMON_UNAVAILABLE"),
        ({"address": "nowhere"}, "DAEMON_UNAVAILABLE"),
    ],
    ids=["another-daemon", "no-token", "refused-port", "unknown-host"],
)
def test_join_that_can_not_be_says_why_and_leaves_nothing(
    team: Team, change: dict[str, str], reason: str
) -> None:
    token = {**team.token("--role", "agent", "--compute", "lab"), **change}

    failed = team.join(token)

    assert failed.returncode != 0
    assert f"[{reason}]".encode() in failed.stderr, failed.stderr
    assert b"Traceback" not in failed.stderr
    assert not (team.node.home / "joined" / "membership.json").exists()


def test_token_of_a_join_is_used_up(team: Team) -> None:
    token = team.token("--role", "agent", "--compute", "lab")
    assert team.join(token).returncode == 0
    other = House()
    try:
        again = Team(team.server, other, team.laptop).join(token)
    finally:
        other.close()

    assert again.returncode == 4
    assert b"[UNAUTHENTICATED]" in again.stderr


def test_reader_sees_and_changes_nothing(team: Team) -> None:
    team.log_in(role="reader", name="rob")

    assert team.laptop.runyard("runs", "list").returncode == 0
    refused = team.laptop.runyard("run", "-t", "lab", "train.py", cwd=project(team.laptop))

    assert refused.returncode == 4
    assert b"rob is reader here" in refused.stderr


def test_file_of_tokens_that_others_can_read_is_not_used(team: Team) -> None:
    team.log_in()
    kept = team.laptop.user_home / ".config" / "runyard" / "credentials.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.chmod(0o644)

    failed = team.laptop.runyard("runs", "list")

    assert failed.returncode == 4
    assert b"chmod 600" in failed.stderr
