"""What each hop of a run can't go below here: a call, a message, a commit, a wake-up.

Each is measured alone and with the pauses of a quiet machine between its rounds: an idle core
takes several times as long to answer as a busy one. Milliseconds, medians.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 40
PAUSE_S = 0.03
COMMIT_ROWS = 12
"""About what a submit changes."""
ECHO = "/bench.Echo/Unary", "/bench.Echo/Stream"


@dataclass(frozen=True, slots=True)
class Floors:
    """Milliseconds."""

    call_way: float
    """Half of a gRPC call from a blocking client to a grpc.aio server and back."""
    message_way: float
    """Half of a message and its answer on an open stream between two event loops."""
    commit: float
    """A group of SQLite inserts that is durable."""
    wake: float
    """Half of a byte to another process and back through a Unix socket."""


def measure(folder: Path) -> Floors:
    """Measures all of them; `folder` is for the database and the socket."""
    target = f"unix:{folder}/echo.sock"
    with subprocess.Popen(
        [sys.executable, __file__, target], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            call = _call(target)
            message = asyncio.run(_message(target))
        finally:
            server.kill()
    return Floors(call / 2, message / 2, _commit(folder), _wake() / 2)


def _median_ms(once: Callable[[], object]) -> float:
    figures = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        once()
        figures.append((time.perf_counter() - begin) * 1e3)
        time.sleep(PAUSE_S)
    return statistics.median(figures)


def _call(target: str) -> float:
    import grpc

    with grpc.insecure_channel(target) as channel:
        unary = channel.unary_unary(ECHO[0])
        unary(b"warm")
        return _median_ms(lambda: unary(b"x" * 1000))


async def _message(target: str) -> float:
    from grpc import aio

    figures = []
    async with aio.insecure_channel(target) as channel:
        stream = channel.stream_stream(ECHO[1])()
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            await stream.write(b"x" * 1000)
            await stream.read()
            figures.append((time.perf_counter() - begin) * 1e3)
            await asyncio.sleep(PAUSE_S)
        stream.cancel()
    return statistics.median(figures)


def _commit(folder: Path) -> float:
    conn = sqlite3.connect(folder / "floor.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")

    def once() -> None:
        conn.execute("BEGIN IMMEDIATE")
        for _ in range(COMMIT_ROWS):
            conn.execute("INSERT INTO t (text) VALUES (?)", ("x" * 100,))
        conn.execute("COMMIT")

    try:
        return _median_ms(once)
    finally:
        conn.close()


def _wake() -> float:
    ours, theirs = socket.socketpair()
    echo = f"import socket\ns = socket.socket(fileno={theirs.fileno()})\n"
    echo += "while data := s.recv(1):\n    s.send(data)\n"
    with ours, subprocess.Popen([sys.executable, "-c", echo], pass_fds=[theirs.fileno()]) as other:
        theirs.close()

        def once() -> None:
            ours.send(b"x")
            ours.recv(1)

        once()
        figure = _median_ms(once)
        ours.close()
        other.wait()
        return figure


async def _serve(target: str) -> None:
    """Answers each message with itself until it is killed."""
    import grpc
    from grpc import aio

    async def unary(request: bytes, context: object) -> bytes:
        return request

    async def stream(requests: object, context: aio.ServicerContext[bytes, bytes]) -> None:
        while (request := await context.read()) is not aio.EOF:  # type: ignore[attr-defined]
            await context.write(request)

    server = aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(target)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
