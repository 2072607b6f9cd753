"""Inputs that nobody should send: each is answered, with an error that says something, or served.

Never a traceback, never INTERNAL, never a hang, and memory stays where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from crash.cases import Campaign, Case
from runyard.runconfig import RunConfiguration
from runyard_contract.errors import RunyardError
from runyard_contract.manifest import (
    DirectoryEntry,
    FileEntry,
    LinkEntry,
    decode_directory,
    encode_directory,
)
from runyard_contract.orderindex import STDOUT, encode_record
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import logs_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.mutation import distorted, mutated
from support.served import WORKSPACE, Served, served

INPUTS = 200
"""Of a case."""
ANSWER_S = 10.0
GROWTH_KIB = 64 << 10
DEFECTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
WRITE_CAME_LATE = "Internal error from Core"
"""The client library's word for a write to a call that the daemon had ended already."""
DIGEST = "ab" * 32
RUNCONFIG = b"""script: train.py
arguments: [--epochs, 3, "a b"]
target: local
framework: Python
maxRunDurationSeconds: 60
environment:
  python:
    userManagedDependencies: false
    condaDependencies:
      dependencies: [python=3.11, {pip: [numpy==1.26]}]
  environmentVariables: {A: "1", B: ""}
history: {outputCollection: true}
"""


def manifests(case: Case) -> Counter[str]:
    """What is no manifest is refused; what is read is written back as the same bytes."""
    seeds = [
        blob
        for entries in (
            [FileEntry("a.py", DIGEST, 7), LinkEntry("b", "a.py")],
            [DirectoryEntry("d", DIGEST, 3, 70), FileEntry("é", DIGEST, 0, is_executable=True)],
            [FileEntry(f"f{n:03}", DIGEST, n) for n in range(40)],
        )
        for blob in encode_directory(entries).blobs.values()
    ]

    def try_one(data: bytes) -> None:
        with contextlib.suppress(RunyardError):
            found = decode_directory(data)
            if entries := getattr(found, "entries", None):
                assert data in encode_directory(entries).blobs.values(), "not canonical"

    return _try_bytes(case, seeds, try_one)


def configurations(case: Case) -> Counter[str]:
    """A file that is no run configuration is refused by file and line."""
    path = case.folder / "x.runconfig"

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(RunyardError):
            RunConfiguration.load(path).check_supported()

    return _try_bytes(case, [RUNCONFIG], try_one)


def _try_bytes(case: Case, seeds: list[bytes], try_one: Callable[[bytes], None]) -> Counter[str]:
    chance = case.chance
    for _ in range(INPUTS):
        data = mutated(chance.choice(seeds), chance, seeds)
        (case.folder / "input").write_bytes(data)  # stays where a case fails
        try_one(data)
    return Counter(inputs=INPUTS)


Trial = Callable[["Target", random.Random], Awaitable[None]]


class Target:
    """A daemon in this process with a run under way that has printed something."""

    def __init__(self, daemon: Served, agent: FakeAgent, ref: agent_pb2.AttemptRef) -> None:
        self.daemon = daemon
        self.agent = agent
        self.ref = ref
        self.folder = daemon.home.parent

    async def ask(self, call: Any, *messages: Message) -> None:
        """Sends messages and takes the answer, or the error, within a bound."""
        (self.folder / "input").write_text("\n".join(map(str, messages)))
        try:
            async with asyncio.timeout(ANSWER_S):
                await call()
        except grpc.aio.AioRpcError as failed:
            if failed.code() in DEFECTS and failed.details() != WRITE_CAME_LATE:
                raise AssertionError(f"{failed.code()}: {failed.details()}") from None
        except TimeoutError:
            raise AssertionError(f"no answer in {ANSWER_S} s") from None

    async def unary(self, call: Any, request: Message) -> None:
        await self.ask(lambda: call(request), request)

    async def stream(self, call: Any, request: Message, limit: int = 20) -> None:
        """Takes the beginning of what a stream brings; one that is silent has nothing to say."""

        async def read() -> None:
            answers = call(request)
            try:
                with contextlib.suppress(TimeoutError):
                    for _ in range(limit):
                        async with asyncio.timeout(0.05):
                            if await answers.read() is grpc.aio.EOF:
                                await answers.code()
                                break
            finally:
                answers.cancel()

        await self.ask(read, request)

    async def session(self, *messages: agent_pb2.SessionRequest) -> None:
        """Opens a session of another node, says this, and half-closes."""

        async def talk() -> None:
            call = self.daemon.agents.Session()
            try:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    for message in messages:  # until the daemon has had enough
                        await call.write(message)
                    await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    pass
            finally:
                call.cancel()

        await self.ask(talk, *messages)


@contextlib.asynccontextmanager
async def target(folder: Path) -> AsyncIterator[Target]:
    """Sets the daemon up, and checks afterwards that it met no defect and serves on."""
    async with served(folder / "h") as daemon, FakeAgent(daemon.channel).connected() as agent:
        await daemon.submit(b"true")
        ref = (await agent.expect("lease")).ref
        await agent.start(ref)
        await agent.print(ref, b"one\ntwo\n", b"three\n")
        yield Target(daemon, agent, ref)
        await daemon.submit(b"true")
        journal = daemon.journal_path.read_text()
        assert "traceback" not in journal, journal


async def session_messages(on: Target, chance: random.Random) -> None:
    hello = agent_pb2.SessionRequest(sequence=1, hello=on.agent.hello)
    hello.hello.node_id = f"node-{chance.randrange(4) + 2}"
    messages = [hello]
    if chance.random() < 0.4:
        distorted(hello, chance)
    for sequence in range(2, chance.randint(2, 6)):
        report = agent_pb2.AttemptReport(ref=on.ref, phase=chance.randrange(6))  # type: ignore[arg-type]
        distorted(report, chance)
        message = agent_pb2.SessionRequest(sequence=sequence, reports=[report])
        if chance.random() < 0.2:
            distorted(message, chance, 1)
        messages.append(message)
    await on.session(*messages)


async def append_messages(on: Target, chance: random.Random) -> None:
    request = agent_pb2.AppendFilesRequest(ref=on.ref)
    for _ in range(chance.randint(0, 3)):
        piece = request.pieces.add(
            file=chance.randrange(7),  # type: ignore[arg-type]
            offset_bytes=chance.choice((0, 4, 8)),
            data=chance.choice((b"more\n", encode_record(STDOUT, 0, 4), b'{"t":1}\n', b"")),
        )
        distorted(piece, chance)
    distorted(request, chance)

    async def send() -> None:
        async for _ in on.daemon.agents.AppendFiles(iter([request])):
            pass

    await on.ask(send, request)


async def register_messages(on: Target, chance: random.Random) -> None:
    request = agent_pb2.RegisterFilesRequest(ref=on.ref)
    request.files.add(path="outputs/a", size_bytes=3)
    distorted(request, chance)
    await on.unary(on.daemon.agents.RegisterFiles, request)


async def log_reads(on: Target, chance: random.Random) -> None:
    name = on.ref.run
    read = logs_pb2.ReadLogRequest(name=name, attempt=1, source=chance.randrange(6))  # type: ignore[arg-type]
    follow = runs_pb2.FollowRunRequest(name=name, include_environment_log=True)
    distorted(read, chance)
    distorted(follow, chance)
    await on.stream(on.daemon.logs.ReadLog, read)
    await on.stream(on.daemon.runs.FollowRun, follow)


async def page_tokens(on: Target, chance: random.Random) -> None:
    request = runs_pb2.ListRunsRequest(parent=f"{WORKSPACE}/experiments/-", page_size=1)
    if chance.random() < 0.8:
        token = (await on.daemon.runs.ListRuns(request)).next_page_token.encode()
        changed = mutated(token, chance, [token, b"=", b"AAAA"])
        request.page_token = changed.decode("utf-8", "replace")
    if chance.random() < 0.5:
        distorted(request, chance)
    await on.unary(on.daemon.runs.ListRuns, request)
    files = runs_pb2.ListRunFilesRequest(parent=on.ref.run, page_token=request.page_token)
    await on.unary(on.daemon.runs.ListRunFiles, files)


def against_daemon(case: Case, trial: Trial) -> Counter[str]:
    """Sends many inputs to one daemon; its memory must not grow with them."""

    async def body() -> None:
        chance = case.chance
        async with target(case.folder) as on:
            await on.daemon.submit(b"true")
            for number in range(INPUTS):
                if number == INPUTS // 2:
                    half_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                await trial(on, chance)
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - half_kib
            assert grown_kib < GROWTH_KIB, f"{grown_kib} KiB more after {INPUTS // 2} inputs"

    asyncio.run(body())
    return Counter(inputs=INPUTS)


_PROMISE = "no traceback, no INTERNAL, no hang, no growth of memory"
CAMPAIGNS = (
    Campaign("fuzz-manifest", "refused, or read and written back the same", manifests, full=100),
    Campaign("fuzz-runconfig", "refused with a reason, or read", configurations, full=25),
    *(
        Campaign(f"fuzz-{name}", _PROMISE, functools.partial(against_daemon, trial=trial), full=10)
        for name, trial in (
            ("session", session_messages),
            ("append", append_messages),
            ("register", register_messages),
            ("logs", log_reads),
            ("pages", page_tokens),
        )
    ),
)
