"""AgentService."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.digest import DIGEST_BYTES, is_digest
from runyard_contract.environment_spec import lock_hash
from runyard_contract.errors import DigestMismatch, PermissionDenied, SpecInvalid
from runyard_contract.limits import LOCK_BYTES
from runyard_contract.version import build_id
from runyard_daemon.config import Config
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.callers import caller
from runyard_daemon.control.hello import Greeter
from runyard_daemon.control.live import Live
from runyard_daemon.control.questions import Questions
from runyard_daemon.control.reported import Hello
from runyard_daemon.control.reports import Reports
from runyard_daemon.control.runfiles import RunFiles
from runyard_daemon.control.sealed import SealedKeeper
from runyard_daemon.control.tags import JobTags
from runyard_daemon.core.access import Role
from runyard_daemon.rpc.appending import Appending
from runyard_daemon.rpc.convert.agents import to_hello, to_target
from runyard_daemon.rpc.convert.nouns import to_lock, to_sealed
from runyard_daemon.rpc.convert.runs import from_file
from runyard_daemon.rpc.convert.times import from_timestamp, to_duration
from runyard_daemon.rpc.edge import Context, check_agent
from runyard_daemon.rpc.enrolment import Enrolment
from runyard_daemon.rpc.idle import incoming
from runyard_daemon.rpc.session import AgentSession
from runyard_daemon.rpc.session import Context as SessionContext
from runyard_daemon.store import environments
from runyard_daemon.store.environments import LockRecord
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceServicer

HELLO_WITHIN_S = 30.0
WINDOW_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What serves agents."""

    config: Config
    live: Live
    logs: AttemptLogs
    tags: JobTags
    reports: Reports
    greeter: Greeter
    questions: Questions
    files: RunFiles
    sealed: SealedKeeper
    enrolment: Enrolment


class AgentService(AgentServiceServicer):
    """Speaks with agents."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts

    async def Session(  # type: ignore[override]  # a coroutine that uses read and write
        self, requests: object, context: SessionContext
    ) -> None:
        """The control channel of one agent."""
        parts = self._parts
        hello = to_hello(await _first_hello(context))
        check_agent(build_id(), hello.agent_version)
        _check_name(hello)
        session = AgentSession(
            parts.greeter.node_of(hello),
            context,
            parts.greeter,
            parts.reports,
            parts.questions,
            parts.live.journal,
            parts.config.out_of_touch_s,
        )
        parts.live.journal.info("agent_hello", node=session.node, attempts=len(hello.attempts))
        try:
            ended = await parts.greeter.greet(session, hello)
            await session.run(self._welcome(), ended)
        finally:
            session.is_open = False
            if parts.greeter.part(session):
                parts.questions.lost(session.node)
            parts.live.journal.info("agent_session_ended", node=session.node)

    def _sender(self, node_id: str) -> str:
        """What people call the node that calls; the daemon's own user may say which it is."""
        who = caller()
        if who.role is not Role.OWNER:
            return who.name
        nodes = self._parts.live.nodes
        found = next((one for one in nodes if one.rpartition("/")[2] == node_id), None)
        return nodes[found].name if found is not None else ""

    def _welcome(self) -> pb.Welcome:
        return pb.Welcome(
            heartbeat_interval=to_duration(self._parts.config.agent_heartbeat_s),
            append_window_bytes=WINDOW_BYTES,
            daemon_version=build_id(),
        )

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        """The first certificate of a machine that joins."""
        check_agent(build_id(), request.agent_version)
        return await self._parts.enrolment.enroll(request)

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        """The next certificate of a node."""
        return await self._parts.enrolment.renew(request)

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveResponse:
        """The end of a node's membership."""
        return await self._parts.enrolment.leave()

    async def AppendFiles(  # type: ignore[override]  # a coroutine that uses read and write
        self, requests: object, context: Context
    ) -> None:
        """Growing files of attempts."""
        parts = self._parts
        await Appending(context, parts.live, parts.logs, parts.tags).run()

    async def RegisterFiles(
        self, request: pb.RegisterFilesRequest, context: Context
    ) -> pb.RegisterFilesResponse:
        """Files of an attempt by content."""
        now_us = self._parts.live.now_us()
        found = [from_file(file, now_us) for file in request.files]
        await self._parts.files.register(to_target(request.ref).ref, found)
        return pb.RegisterFilesResponse()

    async def KeepLock(self, request: pb.KeepLockRequest, context: Context) -> pb.KeepLockResponse:
        """The lock of an environment: the first one counts, unless one was resolved anew."""
        lock = request.lock
        if not request.spec_hash or not lock.platform or len(lock.text) > LOCK_BYTES:
            raise SpecInvalid(
                violations=[("lock", f"needs spec_hash, platform, a text of up to {LOCK_BYTES}")]
            )
        if lock.hash != lock_hash(lock.platform, lock.text):
            raise DigestMismatch(
                f"the lock for {lock.platform[:60]} does not have the hash it came with",
                hint="resolve the environment again",
                platform=lock.platform,
                hash=lock.hash,
            )
        asked = LockRecord(
            request.spec_hash,
            lock.platform,
            lock.hash,
            lock.text,
            from_timestamp(lock.create_time) or self._parts.live.now_us(),
        )
        kept = await self._parts.live.store.write(
            lambda conn: environments.keep_lock(conn, asked, is_refresh=request.is_refresh)
        )
        return pb.KeepLockResponse(lock=to_lock(kept))

    async def KeepSealed(
        self, request: pb.KeepSealedRequest, context: Context
    ) -> pb.KeepSealedResponse:
        """A built environment that other nodes fetch."""
        faults = []
        if not is_digest(request.lock_hash):
            faults.append(("lock_hash", "is no hash of a lock"))
        if len(request.root_digest) != DIGEST_BYTES:
            faults.append(("root_digest", f"must have {DIGEST_BYTES} bytes"))
        if faults:
            raise SpecInvalid(violations=faults)
        kept = await self._parts.sealed.keep(
            request.lock_hash, request.root_digest.hex(), self._sender(request.node_id)
        )
        return pb.KeepSealedResponse(sealed=to_sealed(kept))


def _check_name(hello: Hello) -> None:
    """Raises PermissionDenied for a node that says hello as another one."""
    who = caller()
    if who.role is Role.OWNER:
        return
    if (who.compute.casefold(), who.node) != (hello.compute.casefold(), hello.node_id):
        raise PermissionDenied(
            f"{who.name} is not the node that it says",
            hint="remove the agent's folder on that machine and join again",
            role=who.role.value,
        )


async def _first_hello(context: SessionContext) -> pb.Hello:
    """The first message of a session, which must be Hello."""
    async for request in incoming(context, HELLO_WITHIN_S):
        if request.WhichOneof("message") == "hello" and request.sequence == 1:
            return request.hello
        break
    raise SpecInvalid(violations=[("hello", "must be the first message, with number 1")])
