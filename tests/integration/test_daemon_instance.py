"""The daemon as a process: one instance, its ends, what survives a kill, its local agent."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from runyard_contract.errors import Draining
from runyardpb.v1 import admin_pb2, admin_pb2_grpc, runs_pb2, runs_pb2_grpc
from support.daemon_process import LIMIT_S, DaemonProcess
from support.house import eventually
from support.served import create_request, error_of

ALL = "workspaces/default/experiments/-"


@pytest.fixture
def home() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    yield root / "h"
    shutil.rmtree(root)


def submit(daemon: DaemonProcess, count: int = 1) -> list[str]:
    """Submits runs that no target can start, so that they stay waiting."""
    spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"true"]))
    spec.resources.gpu_count = 1000
    with daemon.channel() as channel:
        stub = runs_pb2_grpc.RunServiceStub(channel)
        return [
            stub.CreateRun(create_request(spec=spec), timeout=LIMIT_S).run.name
            for _ in range(count)
        ]


def listed(daemon: DaemonProcess) -> set[str]:
    with daemon.channel() as channel:
        stub = runs_pb2_grpc.RunServiceStub(channel)
        request = runs_pb2.ListRunsRequest(parent=ALL, page_size=1000)
        return {run.name for run in stub.ListRuns(request, timeout=LIMIT_S).runs}


def test_it_announces_itself_after_it_serves_and_withdraws_at_its_end(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        record = daemon.record()
        info = daemon.info()
        assert record is not None
        assert (info.pid, info.interpreter) == (record["pid"], record["interpreter"])
        assert record["interpreter"] == sys.executable
        assert home.stat().st_mode & 0o777 == 0o700
        assert daemon.kill(signal.SIGTERM) == 0
        assert daemon.record() is None
        assert not (home / "daemon.sock").exists()
        assert [event["event"] for event in daemon.events()][-1] == "stopped"


def test_of_two_started_at_once_one_serves(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:

        def ended() -> list[subprocess.Popen[str]]:
            return [process for process in both if process.poll() is not None]

        (loser,) = eventually(ended, what="one of two ends")
        (winner,) = [process for process in both if process is not loser]
        assert loser.returncode == 1
        _, said = loser.communicate()
        assert f"pid {winner.pid}" in said
    finally:
        for process in both:
            process.terminate()
            process.communicate(timeout=LIMIT_S)
        DaemonProcess(home).close()


def test_acknowledged_runs_survive_kills_at_any_moment(home: Path) -> None:
    acknowledged: set[str] = set()
    daemon = DaemonProcess(home)
    try:
        for _ in range(3):
            daemon.start()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                submitting = pool.submit(submit_until_refused, daemon, acknowledged)
                eventually(lambda: len(acknowledged) % 50 > 20, what="some runs")
                daemon.kill()
                submitting.result()
        daemon.start()

        assert acknowledged <= listed(daemon)
        assert daemon.kill(signal.SIGTERM) == 0
        conn = sqlite3.connect(home / "runyard.db")
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        conn.close()
    finally:
        daemon.close()


def submit_until_refused(daemon: DaemonProcess, acknowledged: set[str]) -> None:
    while True:
        try:
            acknowledged.update(submit(daemon))
        except (grpc.RpcError, AssertionError):
            return


def test_the_second_signal_ends_it_at_once(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        name = submit(daemon)[0]
        with daemon.channel() as channel:
            stub = runs_pb2_grpc.RunServiceStub(channel)
            call = stub.FollowRun(runs_pb2.FollowRunRequest(name=name))
            next(iter(call))
            os.kill(daemon.pid, signal.SIGTERM)
            os.kill(daemon.pid, signal.SIGINT)
            assert daemon.wait() in {0, 128 + signal.SIGINT}
            call.cancel()


def test_a_stop_ends_followers_with_an_error_that_says_so(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        name = submit(daemon)[0]
        with daemon.channel() as channel:
            stub = runs_pb2_grpc.RunServiceStub(channel)
            call = stub.FollowRun(runs_pb2.FollowRunRequest(name=name))
            messages = iter(call)
            next(messages)
            os.kill(daemon.pid, signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as failed:
                for _ in messages:
                    pass
        assert isinstance(error_of(failed.value), Draining)
        assert daemon.wait() == 0


def test_an_embedded_daemon_nobody_needs_ends_with_its_agent(home: Path) -> None:
    with DaemonProcess(home, "--embedded", env={"RUNYARD_IDLE_END_S": "0.7"}) as daemon:
        assert daemon.wait() == 0
        events = daemon.events()
        assert "idle_end" in [event["event"] for event in events]
        agents = [event["pid"] for event in events if event["event"] == "agent_started"]
        assert len(agents) == 1
        eventually(lambda: not os.path.exists(f"/proc/{agents[0]}"), what="agent ends too")


def test_an_embedded_daemon_with_a_waiting_run_stays(home: Path) -> None:
    with DaemonProcess(home, "--embedded", env={"RUNYARD_IDLE_END_S": "0.5"}) as daemon:
        name = submit(daemon)[0]
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.wait(limit_s=1.5)

        with daemon.channel() as channel:
            stub = runs_pb2_grpc.RunServiceStub(channel)
            stub.CancelRun(runs_pb2.CancelRunRequest(name=name), timeout=LIMIT_S)
        assert daemon.wait() == 0


def test_a_setting_that_is_no_number_is_refused_by_name(home: Path) -> None:
    refusal = subprocess.run(
        [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home)],
        env={**os.environ, "RUNYARD_IDLE_END_S": "soon"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert refusal.returncode == 2
    assert "RUNYARD_IDLE_END_S" in refusal.stderr


def test_the_local_agent_is_started_again_and_never_twice(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        first = daemon.agent_pid()
        eventually(lambda: daemon.info().connected_agents == 1, what="first agent")
        os.kill(first, signal.SIGKILL)
        eventually(
            lambda: daemon.agent_pid() != first and daemon.info().connected_agents == 1,
            what="second agent",
        )
        second = daemon.agent_pid()

        daemon.kill()
        daemon.start()
        eventually(lambda: daemon.info().connected_agents == 1, what="same agent is back")

        assert daemon.agent_pid() == second
        starts = [e for e in daemon.events() if e["event"] == "agent_started"]
        assert len(starts) == 2


def test_stop_server_answers_and_names_whom_to_wait_for(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        agent = daemon.agent_pid()
        eventually(lambda: daemon.info().connected_agents == 1, what="agent")
        with daemon.channel() as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            answer = stub.StopServer(admin_pb2.StopServerRequest(), timeout=LIMIT_S)

        assert list(answer.pids) == [daemon.pid, agent]
        assert daemon.wait() == 0
        assert not (home / "daemon.sock").exists()
        eventually(lambda: not os.path.exists(f"/proc/{agent}"), what="agent ends")


def test_no_module_is_imported_after_the_start(home: Path) -> None:
    """An update of the package under a running daemon must not mix two versions."""
    script = (
        "import sys; from runyard_daemon.preload import preload; import runyard_daemon.main; "
        "preload(has_ports=False); known = set(sys.modules); "
        "sys.path.insert(0, sys.argv[1]); from support import preload_probe; preload_probe.run(); "
        "ours = ('runyard_daemon', 'runyard_contract', 'runyardpb', 'google', 'grpc', 'pathspec', "
        "'zstandard', 'blake3'); "
        "late = sorted(m for m in set(sys.modules) - known "
        "if m.split('.')[0] in ours); print(late); sys.exit(bool(late))"
    )
    tests = Path(__file__).parent.parent

    done = subprocess.run(
        [sys.executable, "-c", script, str(tests)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
