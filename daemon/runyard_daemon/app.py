"""Puts the daemon together, serves, and takes it apart again.

Crash-only: a daemon that is killed at any moment is as good as one that was stopped. The ordered
end only spares the peers a wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc.aio

from runyard_contract.home import DaemonRecord
from runyard_contract.version import build_id
from runyard_daemon import instance
from runyard_daemon.config import Config
from runyard_daemon.content import Content
from runyard_daemon.control import startup
from runyard_daemon.control.access import Access
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.background import Background
from runyard_daemon.control.backup import Backup
from runyard_daemon.control.cancel import Canceler
from runyard_daemon.control.collect import Collector
from runyard_daemon.control.declare import Declarer
from runyard_daemon.control.disk import DiskGuard
from runyard_daemon.control.figures import Figures
from runyard_daemon.control.garbage import GarbageCollector
from runyard_daemon.control.grants import Grants
from runyard_daemon.control.health import Health
from runyard_daemon.control.hello import LOCAL, Greeter
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import Goodbye
from runyard_daemon.control.pruning import BuiltPruner
from runyard_daemon.control.questions import Questions
from runyard_daemon.control.removal import Remover
from runyard_daemon.control.reports import Reports
from runyard_daemon.control.restore import complete_restore
from runyard_daemon.control.runfiles import RunFiles
from runyard_daemon.control.sealed import SealedKeeper
from runyard_daemon.control.submit import Submitter
from runyard_daemon.control.tags import JobTags
from runyard_daemon.core.types import BootTime
from runyard_daemon.journal import Journal
from runyard_daemon.logs.metrics import MetricReader
from runyard_daemon.loops.dispatch import dispatch
from runyard_daemon.loops.garbage import collect_garbage
from runyard_daemon.loops.idle import end_when_idle
from runyard_daemon.loops.janitor import clean_up
from runyard_daemon.loops.leases import watch_leases
from runyard_daemon.loops.local_agent import AgentPlace, LocalAgent
from runyard_daemon.loops.metrics_file import keep_metrics_file
from runyard_daemon.rpc.access import AccessService, Reach
from runyard_daemon.rpc.admin import AdminParts, AdminService
from runyard_daemon.rpc.agents import AgentParts, AgentService
from runyard_daemon.rpc.convert.specs import describe_environment, environment_hash, read_spec
from runyard_daemon.rpc.doors import OwnersDoor
from runyard_daemon.rpc.edge import Edge, Gate
from runyard_daemon.rpc.enrolment import Enrolment
from runyard_daemon.rpc.environments import EnvironmentService
from runyard_daemon.rpc.health import HealthService
from runyard_daemon.rpc.logs import LogService, MetricService
from runyard_daemon.rpc.nouns import ComputeService, ExperimentService, WorkspaceService
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.rpc.reflection import ReflectionService
from runyard_daemon.rpc.runs import RunParts, RunService
from runyard_daemon.rpc.server import SERVICE_NAMES, Services, bind, new_server, register
from runyard_daemon.rpc.snapshots import SnapshotService
from runyard_daemon.store import meta
from runyard_daemon.store.database import Store

if TYPE_CHECKING:
    from runyard_daemon.rpc.ports import Ports

EXIT_DISK = 75
"""The disk failed such that nothing may be acknowledged any more (EX_TEMPFAIL)."""
LOOP_PAUSE_S = 1.0
"""Pause before a loop that failed is run again."""
GOODBYE_S = 1.0
"""How long agents have to take their goodbye."""


Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Stop:
    """The wish to end; set once."""

    asked: asyncio.Event
    is_stop: bool = False
    """A person stopped the daemon: the local agent ends too."""

    def ask(self, *, is_stop: bool) -> None:
        """Begins the end; returns at once."""
        self.is_stop = self.is_stop or is_stop
        self.asked.set()


def wall_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def boot_now() -> BootTime:
    """CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    return BootTime(time.clock_gettime(time.CLOCK_BOOTTIME))


def principal() -> str:
    """Who calls: over the daemon's socket only its own user can."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid-{os.geteuid()}"


class App:
    """One daemon. Make it with `running`, inside the running event loop."""

    def __init__(self, config: Config, journal: Journal, store: Store, content: Content) -> None:
        self.config = config
        self.journal = journal
        self.stop = Stop(asyncio.Event())
        self.live = Live(
            store, journal, wall_us, boot_now, Background(), DiskGuard(config.home, config.disk)
        )
        self.content = content
        self.logs = AttemptLogs(config.home / "runs")
        self.socket = instance.place_socket(config.home)
        self.gate = Gate(build_id())
        self.edge = Edge(self.gate, journal, self.live.note_activity)
        self.access = Access(self.live)
        self.access.on_end = self.edge.turn_out
        self.garbage = GarbageCollector(self.live, content)
        self.grants = Grants(self.live, content, environment_hash)
        self.remover = Remover(self.live, self.logs.root)
        self.reach = Reach()
        """How others reach the daemon, once it serves."""
        self.serving = asyncio.Event()
        """Set when calls are answered."""
        self._start_time_us = wall_us()
        self.figures = Figures(
            config.home,
            build_id(),
            self._start_time_us,
            self.live,
            content,
            self.logs.appender,
            self.edge.figures,
        )
        place = AgentPlace(
            config.home,
            self.socket,
            config.environments_max_bytes,
            config.channel_mirrors,
            config.conda,
            config.is_offline,
            config.seal,
        )
        self._agent = LocalAgent(place, journal)

    def services(self, ports: Ports | None = None) -> Services:
        """Wires the parts of control to the services that offer them."""
        reach = self.reach
        config, live, logs = self.config, self.live, self.logs
        keep_s = config.workdir_keep_s
        pager = Pager(live.store.peek(meta.get).page_key)
        tags = JobTags(live, logs.root)
        reports = Reports(live, self.grants, logs, self.content, tags, read_spec, keep_s)
        questions = Questions(live)
        collector = Collector(live, questions, config.collect_s)
        files = RunFiles(live, self.content, logs, describe_environment)
        canceler = Canceler(live, read_spec)
        greeter = Greeter(live, self.grants, logs, read_spec, keep_s)
        submitter = Submitter(
            live,
            self.content,
            self.grants,
            secrets.token_bytes,
            config.queued_runs_max,
            config.has_local_target,
        )
        return Services(
            runs=RunService(
                RunParts(
                    config, live, logs, submitter, canceler, collector, files, self.remover, pager
                )
            ),
            snapshots=SnapshotService(
                live, self.content, Declarer(live, self.content), config.upload_idle_s
            ),
            logs=LogService(live, logs, config.stream_heartbeat_s),
            metrics=MetricService(live, MetricReader(logs.root), pager),
            workspaces=WorkspaceService(live, pager),
            experiments=ExperimentService(live, pager),
            computes=ComputeService(live, pager),
            environments=EnvironmentService(
                live, self.content, pager, BuiltPruner(live, questions), config.upload_idle_s
            ),
            agents=AgentService(
                AgentParts(
                    config,
                    live,
                    logs,
                    tags,
                    reports,
                    greeter,
                    questions,
                    files,
                    SealedKeeper(live, self.content),
                    Enrolment(
                        live,
                        self.access,
                        reach,
                        ports.issue if ports else None,
                        ports.authority if ports else b"",
                    ),
                )
            ),
            access=AccessService(live, self.access, pager, reach),
            admin=AdminService(
                AdminParts(
                    config,
                    live,
                    canceler,
                    self.garbage,
                    self._start_time_us,
                    self._agent.pid,
                    Backup(live, self.content, config.home, build_id()),
                    self.figures,
                    lambda: self.stop.ask(is_stop=True),
                )
            ),
            health=HealthService(Health(live, config.home), self.gate, SERVICE_NAMES),
            reflection=ReflectionService(SERVICE_NAMES),
        )

    async def run(self) -> None:
        """Serves until it is asked to stop, then ends in order."""
        await startup.prepare_store(self.live)
        await startup.load(self.live)
        await self.access.load()
        server = new_server(self.edge, OwnersDoor(principal()))
        ports = self._bind_ports()
        self.reach = ports.reach if ports else Reach()
        servers = [server, *(ports.servers if ports else ())]
        services = self.services(ports)
        bind(server, self.socket)
        async with self.live.background:
            for one in servers:
                register(one, services)
                await one.start()
            try:
                self._announce()
                self.serving.set()
                await self._until_asked()
            finally:
                await self._end(servers)

    def _bind_ports(self) -> Ports | None:
        """The ports that others reach, where there are to be any."""
        if self.config.listen is None:
            return None
        from runyard_daemon.rpc.ports import bind_ports

        return bind_ports(self.config, self.edge, self.access, lambda: datetime.now(UTC))

    async def _until_asked(self) -> None:
        """Runs the loops until the daemon is asked to end."""
        async with asyncio.TaskGroup() as loops:
            tasks = [
                loops.create_task(self._kept_up(name, loop), name=name)
                for name, loop in self._loops()
            ]
            self.live.wake_dispatch.set()
            await self.stop.asked.wait()
            self.journal.info("stopping", is_stop=self.stop.is_stop)
            for task in tasks:
                task.cancel()

    def _loops(self) -> list[tuple[str, Loop]]:
        config, live, journal = self.config, self.live, self.journal
        loops: list[tuple[str, Loop]] = [
            ("dispatch", lambda: dispatch(live, self.grants)),
            ("leases", lambda: watch_leases(live, config.out_of_touch_s)),
            ("janitor", lambda: clean_up(live, self.remover, config)),
            ("garbage", lambda: collect_garbage(live, self.garbage, config.garbage_s)),
        ]
        if config.has_local_agent:
            loops.append(("local-agent", self._agent.keep))
        if (path := config.metrics_file) is not None:
            loops.append(("metrics", lambda: keep_metrics_file(self.figures, path, journal)))
        if config.is_embedded:
            loops.append(("idle", self._end_when_idle))
        return loops

    async def _kept_up(self, name: str, loop: Loop) -> None:
        """Runs a loop; a defect in it ends neither the daemon nor, for long, the loop."""
        while True:
            try:
                await loop()
                return
            except Exception as error:
                self.journal.failure("loop_failed", error, loop=name)
            await asyncio.sleep(LOOP_PAUSE_S)

    async def _end_when_idle(self) -> None:
        await end_when_idle(self.live, self.config.idle_end_s, lambda: self.edge.client_calls)
        self.journal.info("idle_end", after_s=self.config.idle_end_s)
        self.stop.ask(is_stop=True)

    def _announce(self) -> None:
        started_at = datetime.fromtimestamp(self._start_time_us / 1e6, UTC)
        record = DaemonRecord(
            pid=os.getpid(),
            version=build_id(),
            interpreter=sys.executable,
            socket=str(self.socket),
            started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            home=str(self.config.home),
        )
        instance.announce(record)
        self.journal.info(
            "serving",
            pid=record.pid,
            version=record.version,
            socket=record.socket,
            **(
                {
                    "address": self.reach.address,
                    "authority_fingerprint": self.reach.fingerprint,
                }
                if self.reach.people
                else {}
            ),
        )

    async def _end(self, servers: Sequence[grpc.aio.Server]) -> None:
        """Refuses new calls, says goodbye to agents, ends streams, lets short calls finish."""
        self.gate.is_draining = True
        is_told = any(node.startswith(f"{LOCAL}/") for node in self.live.sessions)
        if self.stop.is_stop and self.config.has_local_agent and not is_told:
            self._agent.end()
        for session in list(self.live.sessions.values()):
            session.send(Goodbye(self.stop.is_stop))
        self.edge.interrupt_streams()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.live.all_parted()
        await asyncio.gather(*(server.stop(self.config.drain_s) for server in servers))


@contextlib.asynccontextmanager
async def running(config: Config, journal: Journal) -> AsyncIterator[App]:
    """Opens what a daemon has on its data directory, whose lock the caller holds.

    On the way out what waits is made durable and everything is closed. Raises HomeUnusable,
    DatabaseNewer, ReadOnly, DiskFull.
    """

    def failed(cause: str) -> None:
        """Called on the writer's thread. An exit at once is safe; going on is not."""
        journal.error("store_failed", cause=cause)
        os._exit(EXIT_DISK)

    complete_restore(config.home, wall_us())
    store = Store.open(
        config.home / "runyard.db",
        version=build_id(),
        on_fatal=failed,
    )
    content = Content(config.home / "blobs")
    app: App | None = None
    try:
        app = App(config, journal, store, content)
        yield app
    finally:
        if app is not None:
            await app.logs.appender.close()
            instance.withdraw(config.home, app.socket)
        await asyncio.to_thread(store.close)
        await asyncio.to_thread(content.close)
