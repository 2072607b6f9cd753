"""kill -9 of a process that acknowledges submits: nothing acknowledged is lost, nothing is doubled.

The child tells each answer by a line on a pipe after `await store.write`, as the daemon answers a
client. The parent kills it when it has read some lines, at a moment drawn by chance, and the next
child goes on with the same database, its clients asking again for what was not answered.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import pytest

from runyard_daemon.store import connection, runs, workspaces
from runyard_daemon.store.database import Store
from support.records import NOW_US, WORKSPACE, request_uuid, submit

pytestmark = pytest.mark.slow

KILLS = 50
CALLERS = 8
DEADLINE_S = 60.0


async def serve(path: Path, pipe_fd: int) -> None:
    """Submits without end from several callers, each with request ids of its own."""
    store = Store.open(path)
    await store.write(lambda conn: workspaces.ensure(conn, WORKSPACE, NOW_US))
    sequences = iter(range(store.peek(runs.next_sequence), sys.maxsize))
    requests = iter(range(1, sys.maxsize))

    async def call() -> None:
        while True:
            request = next(requests)
            run_id = await store.write(submit(request_uuid(request), "body", next(sequences)))
            os.write(pipe_fd, f"{request} {run_id}\n".encode())

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())


def start_child(path: Path) -> tuple[int, int]:
    """Starts a child on the database; gives its pid and the pipe of its answers."""
    reading, writing = os.pipe()
    command = [sys.executable, __file__, str(path), str(writing)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    os.set_inheritable(writing, True)
    pid = os.posix_spawn(sys.executable, command, environment)
    os.close(writing)
    return pid, reading


def read_answers(pipe_fd: int, wanted: int, delay_s: float, pid: int) -> bytes:
    """Reads until some answers are there, kills the child, reads the rest."""
    data = b""
    deadline = time.monotonic() + DEADLINE_S
    while data.count(b"\n") < wanted:
        ready, _, _ = select.select([pipe_fd], [], [], deadline - time.monotonic())
        assert ready, "the child answers nothing"
        piece = os.read(pipe_fd, 65536)
        assert piece, "the child ended by itself"
        data += piece
    select.select([], [], [], delay_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while piece := os.read(pipe_fd, 65536):
        data += piece
    return data


def check(path: Path, answers: dict[str, str]) -> None:
    """Opens the database as the next daemon does and looks for every answer."""
    conn = connection.connect(path)
    connection.make_writer(conn)
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    kept = dict(conn.execute("SELECT request_id, response FROM requests"))
    stored = {run_id for (run_id,) in conn.execute("SELECT run_id FROM runs")}
    conn.close()
    assert len(stored) == len(kept), "a run without its request, or a request without its run"
    assert {run_id.decode() for run_id in kept.values()} == stored
    for request, run_id in answers.items():
        assert kept[request_uuid(int(request))].decode() == run_id


def test_crash_store_keeps_every_acknowledged_submit_when_killed() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    answers: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        path = Path(folder) / "runyard.db"
        for kill in range(KILLS):
            pid, pipe_fd = start_child(path)
            data = read_answers(pipe_fd, chance.randrange(1, 40), chance.random() * 0.01, pid)
            os.close(pipe_fd)
            whole_lines = data[: data.rfind(b"\n") + 1].decode().splitlines()
            for request, run_id in (line.split() for line in whole_lines):
                assert answers.setdefault(request, run_id) == run_id, f"seed {seed}, kill {kill}"
            if kill % 10 == 9:
                check(path, answers)
        check(path, answers)
    assert len(answers) >= KILLS


def test_crash_store_reads_the_log_of_a_killed_writer() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        path = Path(folder) / "runyard.db"
        pid, pipe_fd = start_child(path)
        read_answers(pipe_fd, 3, 0.0, pid)
        os.close(pipe_fd)
        assert path.with_name("runyard.db-wal").stat().st_size > 0

        store = Store.open(path)
        found = store.peek(lambda conn: conn.execute("SELECT count(*) FROM runs").fetchone()[0])
        store.close()

        assert found >= 3
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
