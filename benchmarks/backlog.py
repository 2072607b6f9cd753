"""Many waiting runs: submits into the queue, a restart with it; submits of many clients at once.

`python benchmarks/backlog.py [RUNS]` (default 100,000). The runs ask for more GPUs than the machine
has, so they wait. Each figure stands beside the same with an empty queue, or beside what the server
and the disk do without runs.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import RUNYARD, percentile, row, temporary_home

if TYPE_CHECKING:
    from runyardpb.v1 import runs_pb2

RUNS = 100_000
BATCH = 1000
SAMPLES = 100
GPUS = 64
SUBMIT_BUDGET = 1.2
RESTART_BUDGET_S = 1.0
RESTARTS = 3
CLIENTS = ((1, 1), (2, 4), (4, 8))
"""Processes, and threads in each."""
CALLS_EACH = 100
GROUP = 64
"""Rows in one commit of the floor: what a group of 32 waiting clients and more comes to."""


def request(folder: Path) -> runs_pb2.CreateRunRequest:
    """A request for a run that will wait; its snapshot is at the daemon already."""
    from runyard import Experiment, ScriptRunConfig, Workspace
    from runyard.submission import Submission
    from runyard_contract.ids import ExperimentName
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    config = ScriptRunConfig(source_directory=str(folder), command=["true"], gpus=GPUS)
    run = Experiment(Workspace(), "queue").submit(config)
    name = f"workspaces/default/experiments/queue/runs/{run.id}"
    known = Workspace().connection.unary(
        runs_pb2_grpc.RunServiceStub, lambda s: s.GetRun, runs_pb2.GetRunRequest(name=name)
    )
    made = Submission(config).request(ExperimentName("default", "queue"), {}, {})
    made.spec.snapshot = known.run.spec.snapshot
    return made


def create(connection: Any, asked: runs_pb2.CreateRunRequest) -> None:
    """One acknowledged submit."""
    from runyardpb.v1 import runs_pb2_grpc

    asked.request_id = str(uuid.uuid4())
    connection.unary(runs_pb2_grpc.RunServiceStub, lambda s: s.CreateRun, asked)


def submits_ms(asked: runs_pb2.CreateRunRequest) -> list[float]:
    """Milliseconds of submits, one after the other."""
    from runyard import Workspace

    connection = Workspace().connection
    took = []
    for _ in range(SAMPLES):
        begin = time.perf_counter()
        create(connection, asked)
        took.append((time.perf_counter() - begin) * 1e3)
    return took


def fill(asked: runs_pb2.CreateRunRequest, count: int) -> float:
    """Submits runs in batches; runs a second."""
    from runyard import Workspace
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    connection = Workspace().connection
    one = type(asked)()
    one.CopyFrom(asked)
    one.request_id = ""
    batch = runs_pb2.BatchCreateRunsRequest(parent=asked.parent, requests=[one] * BATCH)
    begin = time.perf_counter()
    for _ in range(count // BATCH):
        batch.request_id = str(uuid.uuid4())
        connection.unary(runs_pb2_grpc.RunServiceStub, lambda s: s.BatchCreateRuns, batch)
    return count / (time.perf_counter() - begin)


def restart_s() -> float:
    """Seconds from the start of a command that starts the daemon to its answer."""
    subprocess.run([RUNYARD, "daemon", "stop"], capture_output=True, check=True)
    begin = time.perf_counter()
    subprocess.run([RUNYARD, "runs", "list", "--limit", "1"], capture_output=True, check=True)
    return time.perf_counter() - begin


def command_s() -> float:
    """Seconds of the same command where the daemon is there."""
    begin = time.perf_counter()
    subprocess.run([RUNYARD, "runs", "list", "--limit", "1"], capture_output=True, check=True)
    return time.perf_counter() - begin


def client(what: str, threads: int, folder: str) -> None:
    """A process with clients: prints how many calls it made in how many seconds."""
    from runyard import Workspace
    from runyardpb.v1 import runs_pb2, workspaces_pb2, workspaces_pb2_grpc

    connection = Workspace().connection
    asked = runs_pb2.CreateRunRequest.FromString(Path(folder, "request").read_bytes())

    def call_all() -> None:
        mine = type(asked)()
        mine.CopyFrom(asked)
        for _ in range(CALLS_EACH):
            if what == "submit":
                create(connection, mine)
            else:
                connection.unary(
                    workspaces_pb2_grpc.WorkspaceServiceStub,
                    lambda s: s.GetWorkspace,
                    workspaces_pb2.GetWorkspaceRequest(name="workspaces/default"),
                )

    at_once = [threading.Thread(target=call_all) for _ in range(threads)]
    begin = time.perf_counter()
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    print(json.dumps([CALLS_EACH * threads, time.perf_counter() - begin]))


def clients_per_s(what: str, processes: int, threads: int, folder: Path) -> float:
    """Calls a second of so many clients at once."""
    command = [sys.executable, __file__, "--client", what, str(threads), str(folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    told = [json.loads(process.communicate()[0]) for process in started]
    return float(sum(count for count, _ in told) / max(seconds for _, seconds in told))


def commits_per_s(folder: Path) -> float:
    """Rows a second that SQLite makes durable in groups: three inserts each, as a run has."""
    conn = sqlite3.connect(folder / "floor.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    for number in range(3):
        conn.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, data BLOB)")
    begin = time.perf_counter()
    for _ in range(50):
        conn.execute("BEGIN IMMEDIATE")
        for _ in range(GROUP):
            for number in range(3):
                conn.execute(f"INSERT INTO t{number} (data) VALUES (?)", (bytes(600),))  # noqa: S608
        conn.execute("COMMIT")
    rate = 50 * GROUP / (time.perf_counter() - begin)
    conn.close()
    return rate


def measure_clients(folder: Path) -> None:
    """Acknowledged submits of several clients at once."""
    commits = commits_per_s(folder)
    for processes, threads in CLIENTS:
        trivial = clients_per_s("look", processes, threads, folder)
        rate = clients_per_s("submit", processes, threads, folder)
        count = processes * threads
        who = "1 client" if count == 1 else f"{count} clients at once"
        row(
            f"acknowledged durable submits, {who}",
            f"{rate:.0f}/s",
            f"a call that reads one row {trivial:.0f}/s; grouped commits of as many bytes "
            f"{commits:.0f}/s",
            rate / trivial,
            "limited by gRPC, not by commits",
            rate > trivial / 2,
        )


def measure_queue(asked: runs_pb2.CreateRunRequest, count: int) -> None:
    """Submits with and without a long queue."""
    submits_ms(asked)
    empty = submits_ms(asked)
    rate = fill(asked, count)
    full = submits_ms(asked)
    ratio = statistics.median(full) / statistics.median(empty)
    row(
        f"submit into a queue of {count:,} waiting runs",
        f"p50 {statistics.median(full):.2f} ms, p95 {percentile(full, 0.95):.2f} ms",
        f"into an empty one: p50 {statistics.median(empty):.2f} ms, "
        f"p95 {percentile(empty, 0.95):.2f} ms; filled in batches at {rate:.0f}/s",
        ratio,
        f"within {SUBMIT_BUDGET} times the empty queue",
        ratio < SUBMIT_BUDGET,
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "x.py").write_text("")
        asked = request(folder)
        (folder / "request").write_bytes(asked.SerializeToString())
        empty_s = statistics.median(restart_s() for _ in range(RESTARTS)) - command_s()
        measure_clients(folder)
        measure_queue(asked, count)
        begun = command_s()
        full_s = statistics.median(restart_s() for _ in range(RESTARTS)) - begun
        row(
            f"restart with {count:,} waiting runs, to the first answer",
            f"{full_s * 1e3:.0f} ms",
            f"with a few: {empty_s * 1e3:.0f} ms",
            full_s / empty_s,
            f"under {RESTART_BUDGET_S:.0f} s",
            full_s < RESTART_BUDGET_S,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
