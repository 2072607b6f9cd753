"""A program that answers several requests, one after the other, before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence

from runyard_agent.environments.programs import (
    ANSWER_BYTES,
    OUTPUT_TAIL_BYTES,
    READ_BYTES,
    Outcome,
    end_process,
)

END_OF_OUTPUT = b"\0"
"""What the program writes to standard error when it has said all about a request."""

Hear = Callable[[bytes], None]


class Conversation:
    """A running program. Requests and answers are a line each, on its standard input and output.

    `start` makes one. It is killed, with all that it has started, when a question is cancelled.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        requests: socket.socket,
        answers: asyncio.StreamReader,
        output: asyncio.StreamReader,
    ) -> None:
        self._process = process
        self._requests = requests
        self._answers = answers
        self._output = output
        self._said = bytearray()
        self._hear: Hear = lambda data: None
        self._has_said_all = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(), name="program output")

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> Conversation:
        """Starts a program with these variables. Raises OSError where it can't be started."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=its.fileno(),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                cwd="/",  # not below a project, whose settings would count
                start_new_session=True,
                limit=ANSWER_BYTES,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        ours.setblocking(False)
        if process.stdout is None or process.stderr is None:  # never: both are pipes
            raise OSError("the program has no pipes")
        return cls(process, ours, process.stdout, process.stderr)

    async def ask(self, request: bytes, hear: Hear, kept_fds: Sequence[int] = ()) -> Outcome:
        """Its answer to a request, a line without its end.

        Args:
            request: one line, without its end.
            hear: gets what it says on standard error meanwhile.
            kept_fds: descriptors that it has until it answers.

        `Outcome.returncode` is 0 for an answer; else the program has ended without one.
        """
        self._said.clear()
        self._hear = hear
        self._has_said_all.clear()
        try:
            await self._send(request + b"\n", kept_fds)
            answer = await self._answers.readline()
            await self._has_said_all.wait()
            returncode = 0 if answer.endswith(b"\n") else await self._process.wait() or 1
        except BaseException:
            await self.close()
            raise
        said = bytes(self._said).decode("utf-8", "replace")
        return Outcome(returncode, answer.rstrip(b"\n"), said)

    @property
    def has_ended(self) -> bool:
        """Whether the program is gone: at once, not only when its end was collected."""
        try:
            return not self._requests.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def close(self) -> None:
        """Ends the program; harmless when repeated."""
        await self._end()
        await self._listening

    async def _end(self) -> None:
        self._requests.close()
        await end_process(self._process)

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        """Sends a request; the descriptors go with its first byte."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fds:
                socket.send_fds(self._requests, [data[:1]], list(fds))
                data = data[1:]
            await asyncio.get_running_loop().sock_sendall(self._requests, data)

    async def _listen(self) -> None:
        """Passes on what it says, and keeps the end of it. The program ends with the event loop."""
        try:
            while data := await self._output.read(READ_BYTES):
                self._on_output(data)
        except asyncio.CancelledError:
            await self._end()
            while await self._output.read(READ_BYTES) or await self._answers.read(READ_BYTES):
                pass
            raise
        finally:
            self._has_said_all.set()

    def _on_output(self, data: bytes) -> None:
        said = data.replace(END_OF_OUTPUT, b"")
        if said:
            self._said += said
            del self._said[:-OUTPUT_TAIL_BYTES]
            self._hear(said)
        if data.endswith(END_OF_OUTPUT):
            self._has_said_all.set()
