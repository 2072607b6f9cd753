"""The agent's process: wiring, signals, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pathspec  # noqa: F401 - the contract's ignore rules load it late: an upgrade must not mix in

from runyard_agent import clock, config, journal, probe
from runyard_agent.attempts import Attempts
from runyard_agent.builtahead import BuiltAhead
from runyard_agent.config import Config
from runyard_agent.core.ahead import HOLD_S
from runyard_agent.deadlines import Deadlines
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.inventory import tell_uses
from runyard_agent.environments.registry import BuilderContext, load_builders
from runyard_agent.environments.sealed import SealedSource
from runyard_agent.execution import SYNC_AFTER_S
from runyard_agent.executors.process import ProcessExecutor
from runyard_agent.folders import Folders
from runyard_agent.gpus import Gpus
from runyard_agent.home import Home, open_home
from runyard_agent.joblib import job_library
from runyard_agent.launch import Specs
from runyard_agent.link import Link
from runyard_agent.membership import StatusFile, read_membership
from runyard_agent.node import Node
from runyard_agent.outbox import Outbox
from runyard_agent.pruning import Pruning
from runyard_agent.route import LocalRoute, Route
from runyard_agent.sealer import Sealer
from runyard_agent.session import Session, Stopped, Tell
from runyard_agent.shipping.append import Appender
from runyard_agent.shipping.content import ContentSender
from runyard_agent.slots import Supervisor
from runyard_agent.sources import BlobSource, FetchingSource, LocalSource
from runyard_agent.sweeper import Sweeper
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import EXIT_UNAVAILABLE, AlreadyRunning, HomeUnusable, RunyardError
from runyard_contract.memory import collect_seldom

EXIT_ALREADY_RUNNING = 75
DISK_THREADS = 2
WARM_SLOTS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the agent until it is stopped; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-"):
        from runyard_agent.member_commands import main as command

        return command(given)
    settings = config.parse(given)
    os.umask(0o022)
    journal.start()
    try:
        home = open_home(settings.home)
    except AlreadyRunning as error:
        journal.info("already_running", why=error.message)
        return EXIT_ALREADY_RUNNING
    except RunyardError as error:
        journal.warning("home_unusable", why=error.message, hint=error.hint)
        return error.exit_code
    journal.info("started", pid=os.getpid(), home=str(home.path), node_id=home.node_id)
    exit_code = 0
    try:
        asyncio.run(run(*find_way(settings, home), home))
    except* Stopped as stopped:
        journal.info("stopped", why=str(stopped.exceptions[0]))
    except* RunyardError as refused:
        journal.failure("given_up", refused.exceptions[0])
        exit_code = EXIT_UNAVAILABLE
    finally:
        home.close()
    return exit_code


async def run(settings: Config, way: Way, home: Home) -> None:
    """Serves until it is stopped: raises Stopped, or what no retry helps, in a group."""
    machine = probe.measure(clock.boot_id())
    link = Link()
    outbox = Outbox()
    appender = Appender(link)
    disk = ThreadPoolExecutor(DISK_THREADS, "disk")
    supervisor = Supervisor(home.supervisor)
    slots = settings.slots or machine.default_slots
    sweeper = Sweeper(home.trash, disk)
    folders = Folders(home.runs, sweeper.take, machine.boot_id)
    built_ahead = BuiltAhead(folders, disk)
    environments = EnvironmentCache(
        home.environments, settings.environments_max_bytes, outbox.say_built
    )
    source = _source(settings, home, link, disk)
    sealed = SealedSource(source)
    sender = ContentSender(link, disk)
    try:
        async with asyncio.TaskGroup() as group:
            executor = ProcessExecutor(supervisor, slots, group)
            node = Node(
                config=settings,
                home=home,
                link=link,
                appender=appender,
                sender=sender,
                executor=executor,
                builders=load_builders(
                    BuilderContext(
                        environments,
                        channel_mirrors=settings.channel_mirrors,
                        conda=settings.conda,
                        sealed=sealed,
                        is_offline=settings.is_offline,
                    )
                ),
                environments=environments,
                source=source,
                sealer=Sealer(
                    environments,
                    sealed,
                    sender,
                    link,
                    home.node_id,
                    home.cache,
                    settings.seal,
                    group,
                ),
                gpus=Gpus(len(machine.gpu_names)),
                disk=disk,
                specs=Specs(
                    is_local=settings.is_local,
                    library=job_library(home.cache),
                    spool_bound_bytes=settings.spool_bound_bytes,
                ),
                changed=outbox.changed,
                folders=folders,
                built_ahead=built_ahead,
                trash=sweeper.take,
                unheard_ends=Deadlines(SYNC_AFTER_S),
                unbegun=Deadlines(HOLD_S),
                first_looks=Deadlines(settings.poll_s),
            )
            attempts = Attempts(node, outbox, sweeper, group, machine)
            pruning = Pruning(environments, outbox, group)
            session = Session(
                settings,
                home,
                machine,
                attempts,
                outbox,
                link,
                appender,
                pruning,
                way.route,
                way.tell,
            )
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            collect_seldom()
            sweeper.restore()
            await attempts.restore()
            group.create_task(environments.make_room(), name="make room")
            group.create_task(_until(stop), name="signals")
            group.create_task(executor.warm_up(min(slots, WARM_SLOTS)), name="warm up")
            group.create_task(tell_uses(environments, outbox.say_built), name="tell uses")
            group.create_task(sweeper.run(), name="sweeper")
            group.create_task(appender.run(), name="appender")
            group.create_task(session.run(), name="session")
            if way.upkeep is not None:
                group.create_task(way.upkeep(link), name="upkeep")
    finally:
        built_ahead.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await supervisor.shutdown()
        disk.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Way:
    """The way to the daemon, who hears how it is, and what keeps it passable."""

    route: Route
    tell: Tell
    upkeep: Callable[[Link], Coroutine[Any, Any, None]] | None = None


def find_way(settings: Config, home: Home) -> tuple[Config, Way]:
    """The way to the daemon, and the settings that follow from it. Raises HomeUnusable."""
    if settings.daemon_socket is not None:
        return settings, Way(LocalRoute(settings.daemon_socket, home.path), _nobody_asks)
    from runyard_agent.network_route import NetworkRoute

    membership = read_membership(home.path)
    if membership is None:
        raise HomeUnusable(
            f"the agent in {home.path} has joined no daemon",
            hint="join one with `runyard agent join`",
            home=str(home.path),
        )
    route = NetworkRoute(membership, home.path)
    tell = StatusFile(home.path).tell
    way = Way(route, tell, route.keep_certificate)
    return replace(settings, compute_target=membership.compute), way


def _nobody_asks(state: str, why: str) -> None:
    """The daemon itself tells how its own agent is."""


async def _until(stop: asyncio.Event) -> None:
    """Ends the agent when a signal asks for it; runs go on under their supervisors."""
    await stop.wait()
    raise Stopped("a signal asked for it")


def _source(settings: Config, home: Home, link: Link, disk: ThreadPoolExecutor) -> BlobSource:
    """Where blobs come from on this machine."""
    if settings.blobs is not None:
        return LocalSource(ContentStore(settings.blobs, read_only=True))
    return FetchingSource(ContentStore(home.cache / "blobs"), link, disk)
