"""Programs that build environments: started, heard, and ended with all that they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

OUTPUT_TAIL_BYTES = 64 << 10
"""Kept of what a program says, to find the cause of a failure in."""
ANSWER_BYTES = 16 << 20
READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    `answer` is its standard output, `said` the end of its standard error.
    """

    returncode: int
    answer: bytes
    said: str


async def run_program(
    argv: Sequence[str],
    *,
    given: str = "",
    hear: Callable[[bytes], None] | None = None,
    env: Mapping[str, str],
    kept_fds: Sequence[int] = (),
) -> Outcome:
    """Runs a program to its end. When cancelled, it and all that it started are killed first.

    Args:
        given: its standard input.
        hear: gets what it says on standard error, as it comes.
        env: its variables.
        kept_fds: descriptors that it inherits.

    Raises OSError where it can't be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        cwd="/",  # not below a project, whose settings would count
        pass_fds=kept_fds,
        start_new_session=True,
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_feed(process, given), name="program input")
            answer = group.create_task(_read(process.stdout, ANSWER_BYTES), name="program answer")
            said = group.create_task(
                _read(process.stderr, OUTPUT_TAIL_BYTES, hear), name="program output"
            )
        returncode = await process.wait()
    finally:
        await end_process(process)
    return Outcome(returncode, answer.result(), said.result().decode("utf-8", "replace"))


async def end_process(process: asyncio.subprocess.Process) -> None:
    """Kills the process group, if its leader still lives, and waits until that is gone."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _feed(process: asyncio.subprocess.Process, given: str) -> None:
    """Writes standard input and closes it."""
    if process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(given.encode("utf-8", "surrogateescape"))
        await process.stdin.drain()
    process.stdin.close()


async def _read(
    stream: asyncio.StreamReader | None,
    bound_bytes: int,
    hear: Callable[[bytes], None] | None = None,
) -> bytes:
    """Reads to the end; returns the last bytes up to the bound."""
    kept = bytearray()
    while stream is not None and (data := await stream.read(READ_BYTES)):
        kept += data
        del kept[:-bound_bytes]
        if hear is not None:
            hear(data)
    return bytes(kept)
