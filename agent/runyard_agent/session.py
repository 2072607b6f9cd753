"""The control channel: found, opened, kept, and opened again for as long as the agent lives."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

from runyard_agent import journal
from runyard_agent.ahead import MAX_LEASES_AHEAD
from runyard_agent.attempts import Attempts
from runyard_agent.config import Config
from runyard_agent.home import Home
from runyard_agent.link import Link, Stream, Stubs, cancelling
from runyard_agent.outbox import Outbox
from runyard_agent.probe import Machine
from runyard_agent.pruning import Pruning
from runyard_agent.route import Route
from runyard_agent.shipping.append import WINDOW_BYTES, Appender
from runyard_contract.errors import HomeUnusable, RunyardError, VersionMismatch
from runyard_contract.version import PROTOCOL_VERSION, build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1 import agent_pb2_grpc
from runyardpb.v1 import common_pb2, snapshots_pb2_grpc

SessionCall = Stream[pb.SessionRequest, pb.SessionResponse]

WELCOME_LIMIT_S = 60.0
Tell = Callable[[str, str], None]
"""Hears "connected" or "disconnected", and why."""
STEADY_S = 5.0
"""A session that lasted so long was a good one: the next try is made at once."""


class Stopped(Exception):
    """The daemon was stopped by a person, and its agent with it."""


class Session:
    """Talks to the daemon. `run` ends by raising Stopped, or an error that no retry helps."""

    def __init__(
        self,
        config: Config,
        home: Home,
        machine: Machine,
        attempts: Attempts,
        outbox: Outbox,
        link: Link,
        appender: Appender,
        pruning: Pruning,
        route: Route,
        tell: Tell,
    ) -> None:
        self._config = config
        self._home = home
        self._machine = machine
        self._attempts = attempts
        self._outbox = outbox
        self._link = link
        self._appender = appender
        self._pruning = pruning
        self._route = route
        self._tell = tell
        self._sequence = 0
        self._received = 0
        self._heartbeat_s: float | None = None

    async def run(self) -> None:
        """Opens session after session, with growing pauses while there is no daemon."""
        failures = 0
        told = ""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._serve()
                why = "the daemon has closed the session"
            except HomeUnusable:
                raise
            except VersionMismatch as error:
                if self._route.follows_daemon:
                    raise
                why = f"{error.message} (upgrade this machine's runyard to the daemon's)"
            except (OSError, RunyardError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
            if not self._home.is_there():
                raise Stopped("the agent's folder is gone")
            lasted_s = asyncio.get_running_loop().time() - began
            failures = 1 if lasted_s > STEADY_S else failures + 1
            self._tell("disconnected", why)
            if why != told:  # once, not every second for as long as there is no daemon
                journal.info("session_ended", why=why)
                told = why
            await asyncio.sleep(self._route.backoff.delay_s(failures, random.random()))  # noqa: S311

    async def _serve(self) -> None:
        """One connection with one session on it."""
        channel = self._route.open()
        metadata = (("runyard-version", build_id()),)
        stubs = Stubs(
            agent_pb2_grpc.AgentServiceStub(channel),  # type: ignore[arg-type]
            snapshots_pb2_grpc.SnapshotServiceStub(channel),  # type: ignore[arg-type]
            metadata,
        )
        try:
            call = SessionCall(stubs.agent.Session, metadata)
            async with cancelling(call):
                await self._greet(call)
                self._link.up(stubs)
                self._tell("connected", "")
                await self._talk(call)
        finally:
            self._link.down()
            await channel.close(None)

    async def _greet(self, call: SessionCall) -> None:
        """Says what this node is and holds; hears the rules of the session."""
        self._sequence, self._received = 1, 0
        denied = self._outbox.new_session()
        hello = self._hello([*self._attempts.for_hello(), *denied])
        await call.write(pb.SessionRequest(sequence=1, hello=hello))
        async with asyncio.timeout(WELCOME_LIMIT_S):
            response = await call.read()
        if response is None:
            raise ConnectionResetError("the daemon closed the session without a welcome")
        self._received = response.sequence
        welcome = response.welcome
        heartbeat_s = welcome.heartbeat_interval.ToNanoseconds() / 1e9
        self._heartbeat_s = heartbeat_s if heartbeat_s > 0 else None
        self._appender.window_bytes = welcome.append_window_bytes or WINDOW_BYTES
        journal.info("session_opened", daemon_version=welcome.daemon_version)

    async def _talk(self, call: SessionCall) -> None:
        """Listens and speaks until the session ends."""
        speaking = asyncio.create_task(self._speak(call), name="session: speak")
        try:
            while (response := await call.read()) is not None:
                self._received = response.sequence
                self._outbox.acknowledged(response.acknowledged)
                self._hear(response)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def _speak(self, call: SessionCall) -> None:
        """Sends what there is to say, and a heartbeat when there was nothing for long."""
        while True:
            is_news = await self._outbox.wait(self._heartbeat_s)
            message = self._outbox.take(self._sequence + 1)
            if message is None:
                if is_news:
                    continue
                message = pb.SessionRequest(sequence=self._sequence + 1)
            self._sequence += 1
            message.acknowledged = self._received
            await call.write(message)

    def _hear(self, response: pb.SessionResponse) -> None:
        """Does what one message of the daemon asks for."""
        match response.WhichOneof("message"):
            case "cancel":
                self._attempts.on_cancel(response.cancel)
            case "collect_workdir":
                self._attempts.on_collect(response.collect_workdir)
            case "prune_built":
                self._pruning.asked(response.prune_built)
            case "goodbye" if response.goodbye.is_stop and self._route.follows_daemon:
                raise Stopped("the daemon was stopped")
        for lease in response.leases:
            self._attempts.on_lease(lease)
        if response.leases:
            self._attempts.go_on()
        for forget in response.forgets:
            self._attempts.on_forget(forget)

    def _hello(self, attempts: list[pb.AttemptReport]) -> pb.Hello:
        """What this node is and holds."""
        machine = self._machine
        return pb.Hello(
            node_id=self._home.node_id,
            hostname=machine.hostname,
            agent_version=build_id(),
            protocol_version=PROTOCOL_VERSION,
            boot_id=machine.boot_id,
            machine_id=machine.machine_id,
            compute_target=self._config.compute_target,
            slots=self._config.slots or machine.default_slots,
            capacity=common_pb2.Resources(
                cpu_millicores=machine.cpu_millicores,
                memory_bytes=machine.memory_bytes,
                gpu_count=len(machine.gpu_names),
            ),
            platform=machine.platform,
            job_account=machine.account,
            gpu_names=machine.gpu_names,
            attempts=attempts,
            pid=os.getpid(),
            max_leases_ahead=MAX_LEASES_AHEAD,
        )
