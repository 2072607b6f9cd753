"""What the job of the crash campaigns does once it has noted its execution: what its plan says.

As a job (see `support.witness_start`) it has the standard library and the job library only; the
campaigns import it for what a plan prints.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any

LEDGER = struct.Struct("<QQ")
"""Bytes written to stdout and to stderr; one file for each attempt, always behind the truth."""
STDERR_EVERY = 3
"""Every third piece goes to stderr as well."""


def pieces(lines: int, block: int, *, is_flood: bool) -> Iterator[bytes]:
    """What goes to stdout, write by write: numbered lines of eight bytes, or one endless line."""
    for first in range(0, lines, block):
        count = min(block, lines - first)
        if is_flood:
            yield b"x" * (8 * count)
        else:
            yield b"".join(b"%07d\n" % n for n in range(first, first + count))


def stderr_pieces(lines: int, block: int, *, is_flood: bool) -> Iterator[bytes]:
    """What goes to stderr, write by write."""
    for number, piece in enumerate(pieces(lines, block, is_flood=is_flood)):
        if number % STDERR_EVERY == 0:
            yield piece


def output_bytes(seed: int, size: int) -> bytes:
    """The content of `outputs/result.bin`."""
    return random.Random(seed).randbytes(size)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def fork_detached(count: int) -> None:
    """Processes in sessions of their own, whose parents are gone; they hold stdout open."""
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "10000"])  # noqa: S606 - no shell is wanted
            os._exit(0)
        os.waitpid(child, 0)


def print_all(plan: dict[str, Any], ledger_fd: int) -> None:
    """Prints what the plan says, and notes how far it is after each write."""
    run = None
    if plan["metric_every"]:
        from runyard import Run

        run = Run.get_context()
    out = err = 0
    shape = pieces(plan["lines"], plan["block"], is_flood="flood" in plan["habits"])
    for number, piece in enumerate(shape):
        write_all(1, piece)
        out += len(piece)
        if number % STDERR_EVERY == 0:
            write_all(2, piece)
            err += len(piece)
        os.pwrite(ledger_fd, LEDGER.pack(out, err), 0)
        if run is not None and number % plan["metric_every"] == 0:
            run.log("step", number)
        if plan["pause_s"]:
            time.sleep(plan["pause_s"])


def main(folder: str, plan: dict[str, Any]) -> None:
    habits = plan["habits"]
    if "ignores_term" in habits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fork_detached(plan["children"])
    name = f"{os.environ['RUNYARD_RUN_ID']}.{os.environ['RUNYARD_ATTEMPT']}"
    print_all(plan, os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT, 0o600))
    if plan["output_bytes"]:
        with open("outputs/result.bin", "wb") as file:
            file.write(output_bytes(plan["seed"], plan["output_bytes"]))
    if "closes_streams" in habits:
        os.close(1)
        os.close(2)
        time.sleep(plan["linger_s"])
    if plan["signal"]:
        os.kill(os.getpid(), plan["signal"])
    os._exit(plan["code"])
