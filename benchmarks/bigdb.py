"""A daemon with many ended runs on record: listings, single runs, restart, removal, compaction.

`python benchmarks/bigdb.py [RUNS]` (default 1,000,000). The database is made by bulk SQL with the
daemon's own schema, then served by a real daemon and asked over gRPC.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
from machine import own_cpu_seconds, percentile, row, temporary_home

from runyard_daemon.store import connection, migrations
from runyardpb.v1 import admin_pb2, admin_pb2_grpc, common_pb2, runs_pb2, runs_pb2_grpc

RUNS = 1_000_000
EXPERIMENTS = 200
SAMPLES = 40
START_US = 1_700_000_000_000_000
STEP_US = 60_000_000  # a run a minute
LIST_BUDGET_MS = 50.0
WRITER_BUDGET_MS = 50.0
PARENT = "workspaces/default/experiments/-"
STATES = ("COMPLETED", "FAILED", "CANCELED")
OPTIONS = [("grpc.max_receive_message_length", 64 << 20)]


def build(path: Path, count: int) -> None:
    """Makes the database: runs a minute apart, each with an attempt, history, labels, a file."""
    spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"train"])).SerializeToString()
    conn = connection.connect(path)
    connection.make_writer(conn)
    migrations.migrate(conn, path)
    conn.execute("PRAGMA synchronous = OFF")
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("PRAGMA cache_size = -1000000")
    conn.execute("BEGIN")
    conn.execute("INSERT INTO workspaces VALUES ('default', ?)", (START_US,))
    numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    values = {"count": count, "spec": spec, "start": START_US, "step": STEP_US}
    values["experiments"] = EXPERIMENTS
    run_id = "printf('e%d_%d_%08x', i % :experiments, 1700000000 + 60 * i, i)"
    conn.execute(
        f"""{numbers} INSERT INTO runs SELECT i, {run_id}, 'default',
        printf('e%d', i % :experiments), i / :experiments + 1,
        CASE i % 10 WHEN 0 THEN 'FAILED' WHEN 1 THEN 'CANCELED' ELSE 'COMPLETED' END, 1, 8,
        CASE i % 50 WHEN 0 THEN 'gpu1' ELSE 'local' END, 0, 1000, 0, 0, :start + i * :step,
        :start + i * :step + 9000, :start + i * :step + 5000000, 1000, 'user', '',
        CASE i % 100 WHEN 0 THEN printf('base-%d', i / 100) ELSE {run_id} END,
        'local/n', '', '', '', printf('{{"model":"m%d"}}', i % 1000), '{{}}', '[]',
        '[{{"phase":"script","start_time_us":1700000000000000,"duration_us":5000000}}]',
        NULL, NULL FROM n""",  # noqa: S608  constants of this module
        values,
    )
    conn.execute("INSERT INTO run_specs SELECT seq, :spec, x'' FROM runs", values)
    conn.execute(
        "INSERT INTO run_labels SELECT 0, 'model', printf('m%d', seq % 1000), seq FROM runs"
    )
    for revision, state in ((1, "'QUEUED'"), (2, "'RUNNING'"), (3, "state")):
        conn.execute(
            f"INSERT INTO transitions SELECT run_id, {revision}, {state}, create_time_us, "  # noqa: S608
            "'as it went', 'agent' FROM runs ORDER BY run_id"
        )
    conn.execute(
        "INSERT INTO attempts SELECT run_id, 1, seq, 'local/n', 'ENDED', create_time_us, "
        "start_time_us, end_time_us, 1000, 0, 0, 0, 1, "
        """'{"stdout.txt":1000,"stderr.txt":10}', NULL FROM runs ORDER BY run_id"""
    )
    conn.execute(
        "INSERT INTO run_files SELECT run_id, 'outputs/model.bin', 1000000, end_time_us, "
        "hex(zeroblob(32)), 0, 0 FROM runs ORDER BY run_id"
    )
    conn.execute(
        "INSERT INTO experiments SELECT 'default', experiment, min(create_time_us), "
        "max(create_time_us), max(seq), max(number), count(*) FROM runs GROUP BY experiment"
    )
    conn.execute("COMMIT")
    conn.execute("PRAGMA optimize")
    conn.close()


def serve(home: Path, log: Path) -> tuple[subprocess.Popen[bytes], float]:
    """Starts a daemon; gives it with the milliseconds until it answers."""
    begin = time.perf_counter()
    with log.open("ab") as out:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home)],
            stdout=out,
            stderr=out,
        )
    socket = home / "daemon.sock"
    while daemon.poll() is None:
        try:
            with grpc.insecure_channel(
                f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                admin_pb2_grpc.AdminServiceStub(channel).GetServerInfo(
                    admin_pb2.GetServerInfoRequest(), timeout=5
                )
            return daemon, (time.perf_counter() - begin) * 1e3
        except grpc.RpcError:
            time.sleep(0.01)
    raise SystemExit(f"the daemon ended; see {log}")


def timed(call: Callable[[int], object], daemon_pid: int) -> tuple[float, float]:
    """95th percentile of a call, and the daemon's CPU time for one, in milliseconds."""
    taken = []
    before_s = own_cpu_seconds(daemon_pid)
    for number in range(SAMPLES):
        begin = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - begin) * 1e3)
    return percentile(taken, 0.95), (own_cpu_seconds(daemon_pid) - before_s) * 1e3 / SAMPLES


def measure_reads(stub: runs_pb2_grpc.RunServiceStub, count: int, daemon_pid: int) -> None:
    """Listings of 50 by every condition, a deep page, single runs."""

    def listing(**fields: object) -> Callable[[int], object]:
        def call(number: int) -> object:
            chosen = {
                name: value.format(n=number * 7919 % count) if isinstance(value, str) else value
                for name, value in fields.items()
            }
            return stub.ListRuns(runs_pb2.ListRunsRequest(**({"parent": PARENT} | chosen)))

        return call

    def show(number: int) -> object:
        sequence = number * 7919 % count + 1
        name = f"e{sequence % EXPERIMENTS}_{1_700_000_000 + 60 * sequence}_{sequence:08x}"
        return stub.GetRun(runs_pb2.GetRunRequest(name=f"{PARENT}/runs/{name}"))

    in_the_middle = time.strftime("%Y-%m-%d", time.gmtime(1_700_000_000 + 30 * count))
    calls = {
        "newest page": listing(),
        "oldest page": listing(order_by="create_time asc"),
        "experiment": listing(parent="workspaces/default/experiments/e7"),
        "status": listing(states=[runs_pb2.Run.STATE_FAILED]),
        "experiment, status": listing(filter="experiment = e7 AND status = Canceled"),
        "tag": listing(filter="tag.model = m77"),
        "tag, experiment": listing(filter="tag.model = m107 AND experiment = e107"),
        "tag, experiment: none fits": listing(filter="tag.model = m1 AND experiment = e2"),
        "tag, any value; target": listing(tags={"model": ""}, compute_target="gpu1"),
        "time": listing(filter=f"created >= 2023-12-01 AND created < {in_the_middle}"),
        "time, tag": listing(filter=f"created < {in_the_middle} AND tag.model = m3"),
        "name": listing(filter="name = base-{n}"),
        "beginning of a name": listing(filter='name = "base-9*"'),
        "one run": show,
    }
    for what, call in calls.items():
        took_ms, cpu_ms = timed(call, daemon_pid)
        figure = f"p95 {took_ms:.1f} ms, CPU {cpu_ms:.1f} ms"
        is_met = took_ms < LIST_BUDGET_MS
        row(what, figure, f"{count:,} runs", None, "p95 < 50 ms", is_met)


class Submitter:
    """Submits one run after the other beside the work of a block, and times each."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._is_over = threading.Event()
        self.taken_ms: list[float] = []

    def _go(self) -> None:
        with grpc.insecure_channel(
            f"unix:{self._socket}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = runs_pb2_grpc.RunServiceStub(channel)
            spec = runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"true"]),
                resources=common_pb2.Resources(cpu_millicores=512_000),
            )
            while not self._is_over.wait(0.02):
                begin = time.perf_counter()
                stub.CreateRun(
                    runs_pb2.CreateRunRequest(
                        parent="workspaces/default/experiments/beside",
                        spec=spec,
                        request_id=str(uuid.uuid4()),
                    )
                )
                self.taken_ms.append((time.perf_counter() - begin) * 1e3)

    def __enter__(self) -> Submitter:
        self._thread = threading.Thread(target=self._go)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()


def measure_removal(stub: runs_pb2_grpc.RunServiceStub, home: Path, count: int) -> None:
    """Removes a tenth of the runs by number in each experiment while others submit."""
    request = runs_pb2.PruneRunsRequest(parent=PARENT, keep_last=count // EXPERIMENTS * 9 // 10)
    begin = time.perf_counter()
    with Submitter(home / "daemon.sock") as beside:
        last = list(stub.PruneRuns(request))[-1]
    took_s = time.perf_counter() - begin
    rate = last.removed_runs / took_s
    row("prune", f"{rate:,.0f} runs/s", f"{last.removed_runs:,} removed", None, "none")
    worst_ms = percentile(beside.taken_ms, 0.95)
    row(
        "submit beside it",
        f"p50 {percentile(beside.taken_ms, 0.5):.1f}, p95 {worst_ms:.1f} ms, "
        f"max {max(beside.taken_ms):.1f} ms",
        f"{len(beside.taken_ms)} submits",
        None,
        "p95 < 50 ms",
        worst_ms < WRITER_BUDGET_MS,
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with temporary_home() as root:
        home = Path(os.environ["RUNYARD_HOME"])
        home.mkdir(mode=0o700)
        begin = time.perf_counter()
        build(home / "runyard.db", count)
        size_mib = (home / "runyard.db").stat().st_size / (1 << 20)
        row("database", f"{size_mib:,.0f} MiB", f"{count:,} runs", None, "none")
        print(f"# built in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        log = root / "daemon.log"
        empty, floor_ms = serve(root / "empty", log)
        empty.terminate()
        empty.wait()
        daemon, took_ms = serve(home, log)
        daemon.kill()
        daemon.wait()
        daemon, again_ms = serve(home, log)
        try:
            worst_ms = max(took_ms, again_ms)
            row(
                "start, and after kill -9",
                f"{took_ms:.0f} ms, {again_ms:.0f} ms",
                f"an empty one {floor_ms:.0f} ms",
                worst_ms / floor_ms,
                "< 1,000 ms",
                worst_ms < 1000,
            )
            with grpc.insecure_channel(f"unix:{home / 'daemon.sock'}", options=OPTIONS) as channel:
                stub = runs_pb2_grpc.RunServiceStub(channel)
                measure_reads(stub, count, daemon.pid)
                measure_removal(stub, home, count)
                info = admin_pb2_grpc.AdminServiceStub(channel).GetServerInfo(
                    admin_pb2.GetServerInfoRequest()
                )
            after_mib = info.database_bytes / (1 << 20)
            row("database after it", f"{after_mib:,.0f} MiB", f"{size_mib:,.0f} MiB", None, "none")
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
