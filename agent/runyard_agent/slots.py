"""The agent's side of the supervisor: finds or starts the warm parent, talks to each slot.

    supervisor = Supervisor(home.supervisor)
    slot = await supervisor.slot(0)
    await slot.spawn(bundle.path)
    async for event in slot:                # ends with SlotLost or SlotTaken
        ...

Runs do not notice when this side goes away: all state is in their bundles, and the `hello` of a
slot says which of them it has. A bundle that was started, has no exit record and is in no slot is
given to `Supervisor.recover`, which ends what is left of it and records that end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import runyard_agent
from runyard_agent.lines import LINE_BYTES, Lines
from runyard_contract.errors import Unavailable

SOCKET_PATH_BYTES = 100
LONGEST_SOCKET_NAME = "slot-4095.sock"
START_LIMIT_S = 20.0
SLOT_TRIES = 3
_REFUSED = {"recover": "can't end it yet"}
"""What it says to people that it refuses."""
PARENT_TRIES = 3
"""Starts of a parent for one question: it may be killed between its start and the answer."""
ANSWER_LIMIT_S = 60.0
EXIT_SERVES, EXIT_ALREADY_SERVED = 0, 75
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from runyard_agent.supervisor.start import main; main()"
)
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""The supervisor's own environment; a job gets exactly what its spec says."""


StopReason = Literal["cancel", "timeout", "returned"]


class SupervisorUnavailable(Unavailable):
    """The processes that own this node's runs can't be started or don't answer."""

    reason = "SUPERVISOR_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Hello:
    """What the slot is doing at the moment of the connection."""

    slot: int
    pid: int
    bundle: str | None
    phase: Literal["idle", "running", "stopping"]
    queued: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The main process of a run was started."""

    bundle: str
    pid: int
    at_unix_ns: int


@dataclass(frozen=True, slots=True)
class Output:
    """The lengths of a run's spool files, bytes; they only grow."""

    bundle: str
    stdout_bytes: int
    stderr_bytes: int
    order_bytes: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The run is over, none of its processes is left, its output is complete in the spool."""

    bundle: str
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """A command was not carried out; `bundle` is None where it named none."""

    op: str | None
    bundle: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """Processes of a run resist SIGKILL (often a dead network disk); the slot waits for them."""

    bundle: str
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DiskFull:
    """Output or end of a run can't be written; told at each try, once a second."""

    bundle: str


@dataclass(frozen=True, slots=True)
class SlotLost:
    """The slot's supervisor is gone. Its run is being ended: see `Supervisor.recover`."""

    slot: int
    pid: int


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """A newer connection has this slot, so this one is over."""

    slot: int


Event = Hello | Started | Output | Exited | Refused | Stuck | DiskFull | SlotLost | SlotTaken


def parse_event(message: Mapping[str, Any], slot: int) -> Event | None:
    """The event of one line; None for one that this version does not know."""
    try:
        return _event(message, slot)
    except KeyError:
        return None


def _event(message: Mapping[str, Any], slot: int) -> Event | None:
    """The event; KeyError where it lacks something."""
    match message.get("event"):
        case "started":
            return Started(message["bundle"], message["pid"], message["at_unix_ns"])
        case "exited":
            return Exited(message["bundle"], message["exit"])
        case "output":
            lengths = message["stdout"], message["stderr"], message["order"]
            return Output(message["bundle"], *lengths)
        case "refused":
            return Refused(message.get("op"), message["bundle"], message["why"])
        case "stuck":
            return Stuck(message["bundle"], tuple(message["pids"]))
        case "disk_full":
            return DiskFull(message["bundle"])
        case "superseded":
            return SlotTaken(slot)
        case "hello":
            queued = tuple(message.get("queued", ()))
            return Hello(slot, message["pid"], message["bundle"], message["phase"], queued)
    return None


class Slot:
    """A connection to the supervisor of one slot. Iterate it for its events, in one place."""

    def __init__(self, hello: Hello, lines: Lines, transport: asyncio.Transport) -> None:
        self.hello = hello
        self._lines = lines
        self._transport = transport

    @classmethod
    async def connect(cls, number: int, path: str) -> Self:
        """Connects and reads the hello; OSError where nobody listens."""
        loop = asyncio.get_running_loop()
        transport, lines = await loop.create_unix_connection(Lines, path)
        try:
            line = await lines.next()
            hello = parse_event(json.loads(line), number) if line is not None else None
            if not isinstance(hello, Hello):
                raise ConnectionResetError(f"no hello from {path}")
        except BaseException:
            transport.close()
            raise
        return cls(hello, lines, transport)

    @property
    def number(self) -> int:
        """Which slot this is."""
        return self.hello.slot

    @property
    def pid(self) -> int:
        """The process of the slot's supervisor."""
        return self.hello.pid

    async def spawn(self, bundle: str) -> None:
        """Executes a bundle, after the runs that the slot already has (at most two wait).

        The answer is an event: Started, Exited (with reason spawn_failed) or Refused. An attempt
        is executed at most once, however often it is asked for.
        """
        self._send({"op": "spawn", "bundle": bundle})

    async def stop(self, bundle: str, by: StopReason, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after `grace_s` seconds; a repeat can only shorten that.

        A run that waits in the slot ends at once as never_started. By "returned" nothing else
        happens: a run that was started goes on.
        """
        self._send({"op": "stop", "bundle": bundle, "by": by, "grace_s": grace_s})

    async def acked(self, bundle: str, stdout_bytes: int, stderr_bytes: int) -> None:
        """Says how much output is safe elsewhere: it makes room under the spool's bound."""
        command = {"op": "acked", "bundle": bundle, "stdout": stdout_bytes, "stderr": stderr_bytes}
        self._send(command)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events after the hello; the last is SlotLost, or SlotTaken."""
        while (line := await self._lines.next()) is not None:
            event = parse_event(json.loads(line.decode()), self.number)
            if event is not None:
                yield event
            if isinstance(event, SlotTaken):
                return
        yield SlotLost(self.number, self.pid)

    async def close(self) -> None:
        """Ends the connection; the slot and its run go on."""
        self._transport.close()
        await asyncio.shield(self._lines.closed)

    def _send(self, command: Mapping[str, Any]) -> None:
        """Says something; that the slot is lost is for the reading side to tell."""
        if not self._transport.is_closing():
            self._transport.write(json.dumps(command).encode("ascii") + b"\n")


class Supervisor:
    """The supervisor of the node: one warm parent for each agent's folder."""

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        """`folder` is the agent's own for the supervisor (0700); `python` runs it."""
        self._folder = folder
        self._python = python
        self.log = folder / "supervisor.log"

    async def start(self) -> int:
        """Finds the running parent or starts one; returns its pid. Safe to repeat."""
        return int((await self._answer({"op": "ping"}))["pid"])

    async def slot(self, number: int) -> Slot:
        """Connects to a slot; its supervisor is forked when it has none.

        Waits while the run of a dead supervisor is being ended: a slot runs one at a time.
        Raises SupervisorUnavailable when that does not come about.
        """
        for _ in range(SLOT_TRIES):
            reply = await self._call({"op": "slot", "slot": number})
            try:
                return await Slot.connect(number, reply["socket"])
            except OSError as error:  # it has died since; the parent notices when asked again
                failure = error
        raise self._unavailable(f"loses slot {number} again and again: {failure}") from failure

    async def recover(self, bundle: str) -> Mapping[str, Any]:
        """The exit record of a run that no slot has; ends what is left of it first.

        SupervisorUnavailable where it was never started, where its supervisor lives after all,
        or where its processes can't be ended.
        """
        reply = await self._call({"op": "recover", "bundle": bundle})
        record: Mapping[str, Any] = reply["exit"]
        return record

    async def shutdown(self) -> None:
        """Ends the parent and idle slots now, busy slots when their runs are over."""
        with contextlib.suppress(OSError):
            await self._ask({"op": "shutdown"})

    async def _call(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Asks the parent for something that it may refuse."""
        reply = await self._answer(command)
        if not reply.get("ok"):
            pids = ", ".join(str(pid) for pid in reply.get("pids", ()))
            why = str(reply.get("why")) + (f" (processes {pids})" if pids else "")
            refused = _REFUSED.get(command["op"], f"refused {command['op']}")
            raise self._unavailable(f"{refused}: {why}")
        return reply

    async def _answer(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Asks the parent, starting one where none answers; again where that one is killed."""
        for is_last in (False,) * PARENT_TRIES + (True,):
            try:
                return await self._ask(command)
            except OSError as error:
                failure = error
            if not is_last:
                await self._launch()
        raise self._unavailable(f"was started but does not answer: {failure}") from failure

    async def _ask(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """One question to the parent; OSError (TimeoutError included) where none answers."""
        path = str(self.sockets() / "parent.sock")
        async with asyncio.timeout(ANSWER_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
            try:
                writer.write(json.dumps(command).encode("ascii") + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the supervisor has hung up")
        reply: Mapping[str, Any] = json.loads(line)
        return reply

    async def _launch(self) -> None:
        """Starts the parent: the process that we start is only its forerunner and soon ends.

        One that was killed is no error here: whether there is a parent is asked next.
        """
        sockets = self.sockets()
        source = str(Path(runyard_agent.__file__).parent.parent)
        options = ("-I", "-S", "-X", "utf8")
        arguments = (source, "runyard-supervisor", str(sockets), str(self.log))
        env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        try:
            async with asyncio.timeout(START_LIMIT_S):
                with self.log.open("ab") as log:
                    process = await asyncio.create_subprocess_exec(
                        self._python,
                        *options,
                        "-c",
                        _BOOT,
                        *arguments,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd="/",
                        env=env,
                        start_new_session=True,
                    )
                code = await process.wait()
        except (OSError, TimeoutError) as error:
            raise self._unavailable(f"could not be started with {self._python}: {error}") from error
        if code not in (EXIT_SERVES, EXIT_ALREADY_SERVED, -signal.SIGKILL):
            raise self._unavailable(f"ended with code {code} when it was started")

    def sockets(self) -> Path:
        """The folder of the sockets: our own, or a short one where its path is too long."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.fsencode(self._folder / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES:
            return self._folder
        note = self._folder / "sockets"
        with contextlib.suppress(FileNotFoundError):
            folder = Path(note.read_text(encoding="utf-8", errors="surrogateescape"))
            if _is_private(folder):
                return folder
        folder = Path(tempfile.mkdtemp(prefix="runyard-"))
        staged = note.with_suffix(".tmp")
        staged.write_text(str(folder), encoding="utf-8", errors="surrogateescape")
        staged.rename(note)
        return folder

    def _unavailable(self, what: str) -> SupervisorUnavailable:
        return SupervisorUnavailable(
            f"the node's supervisor {what}",
            hint=f"read {self.log}, then start the agent again",
            log=str(self.log),
        )


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of ours that nobody else can enter, and no link."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    is_ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
    return is_ours and stat.S_IMODE(found.st_mode) == 0o700
