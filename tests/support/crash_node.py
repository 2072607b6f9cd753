"""Daemon, agent and supervisors as processes to be killed, and runs that go on meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import runyard_agent
from runyard import Experiment, Run, ScriptRunConfig, Workspace
from runyard_contract.content.store import ContentStore
from runyard_contract.home import socket_path
from runyard_contract.lockfile import lock_holder
from runyard_daemon.loops.local_agent import AgentPlace, agent_environment
from support import impatient_daemon, witness_job, witness_start
from support.daemon_process import DaemonProcess
from support.house import command_line, end_processes_naming, eventually, processes_naming
from support.supervised import Peer
from support.witness import Flight, Plan, Witness, demand

DEADLINE_S = 60.0
AGENT = "runyard_agent --local"
SUPERVISOR = "runyard-supervisor"
CANCEL_GRACE_S = 1.0
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from runyard_agent.supervisor.start import main; main()"
)


class CrashNode:
    """Use it as a context: nothing is left running behind it; the folder stays.

    Args:
        folder: its own, with a short path.
        out_of_touch_s: after so long without its agent a run is NOT_RESPONDING; None: as ever.
    """

    def __init__(self, folder: Path, *, out_of_touch_s: float | None = None) -> None:
        self.home = folder / "h"
        self.witness = Witness(folder / "w")
        impatient = [sys.executable, "-P", impatient_daemon.__file__, str(self.home)]
        self._daemon = DaemonProcess(
            self.home,
            command=None if out_of_touch_s is None else [*impatient, str(out_of_touch_s)],
        )
        self._project = folder / "project"
        self._project.mkdir()
        for module in (witness_start, witness_job):
            shutil.copy(module.__file__, self._project)
        self._agents: list[subprocess.Popen[bytes]] = []
        self._workspace: Workspace | None = None

    def make_home(self) -> None:
        """Makes the folders that daemon and agent would make, to start others before them."""
        for folder in (self.home, self.home / "agent", self.home / "agent" / "supervisor"):
            folder.mkdir(mode=0o700)
        ContentStore(self.home / "blobs")

    def all_pids(self) -> list[int]:
        """Daemon, agent, supervisors and all processes of runs."""
        return processes_naming(str(self.home.parent))

    # Daemon

    def start_daemon(self) -> None:
        """Starts the daemon and waits until it serves."""
        self._daemon.start()
        if self._workspace is None:
            self._workspace = Workspace(address=f"unix:{socket_path(self.home)}")
        self._workspace.close()  # the next call finds the new daemon

    @property
    def daemon_pid(self) -> int:
        return self._daemon.pid

    @property
    def workspace(self) -> Workspace:
        assert self._workspace is not None
        return self._workspace

    # Agent

    def agent_pids(self) -> list[int]:
        """The agent, and one that has not yet found that there is another."""
        found = processes_naming(str(self.home / "agent"))
        return [pid for pid in found if AGENT in command_line(pid)]

    def start_agent(self, *, socket: Path | None = None, env: dict[str, str] | None = None) -> None:
        """Starts an agent as the daemon does, without the pauses that the daemon makes.

        Where the daemon has started one at the same moment, one of both ends by itself.
        """
        place = AgentPlace(self.home, socket or socket_path(self.home))
        self._agents = [agent for agent in self._agents if agent.poll() is None]
        with (self.home / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                place.command(),
                env=agent_environment(os.environ) | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._agents.append(agent)

    def agent_is_up(self) -> None:
        """Waits for an agent that has its folder."""
        lock = self.home / "agent" / "agent.lock"
        eventually(lambda: lock_holder(lock), what="agent")

    # Supervisors

    def start_supervisor(self, env: dict[str, str] | None = None) -> None:
        """Starts the warm parent, with more variables than the agent would give it."""
        folder = self.home / "agent" / "supervisor"
        source = str(Path(runyard_agent.__file__).parent.parent)
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, source, SUPERVISOR]
        arguments = [str(folder), str(folder / "supervisor.log")]
        subprocess.run(
            [*command, *arguments],
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=DEADLINE_S,
        )

    def supervisors(self) -> tuple[int | None, list[int]]:
        """The warm parent, None where none answers, and the supervisors of slots."""
        found = [p for p in processes_naming(str(self.home)) if SUPERVISOR in command_line(p)]
        with contextlib.suppress(OSError, AssertionError):
            peer = Peer(str(self.home / "agent" / "supervisor" / "parent.sock"))
            peer.send(op="ping")
            reply = peer.receive()
            peer.close()
            parent = int(reply["pid"]) if reply else None
            return parent, [pid for pid in found if pid != parent]
        return None, found

    def supervisor_is_up(self) -> None:
        """Waits for a warm parent with its first slots."""
        eventually(lambda: all(self.supervisors()), what="supervisors")

    # Runs

    def submit(self, plan: Plan) -> Flight:
        """Submits a run that does what the plan says."""
        config = ScriptRunConfig(
            self._project,
            "witness_start.py",
            [str(self.witness.folder), plan.to_json()],
            max_run_duration_seconds=plan.max_duration_s,
            cancel_grace_seconds=CANCEL_GRACE_S,
        )
        run = Experiment(self.workspace, "crash").submit(config)
        return Flight(run, plan, time.monotonic())

    def wait(self, flight: Flight, limit_s: float = DEADLINE_S) -> None:
        """Waits for a final state and checks all that was promised of the run."""
        what = f"final state of {flight.run.id}"
        eventually(lambda: flight.run.refresh().is_final, limit_s=limit_s, what=what)
        self.witness.check(flight)

    # The end

    def __enter__(self) -> CrashNode:
        self.start_daemon()
        self.agent_is_up()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._workspace is not None:
            self._workspace.close()
        end_processes_naming(str(self.home.parent))
        self._daemon.close()
        for agent in self._agents:
            agent.wait(DEADLINE_S)
        end_processes_naming(str(self.home.parent))


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> int:
    """Signals processes and, where that kills, waits until they are gone; gives how many."""
    done = 0
    waits: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            waits.append(os.pidfd_open(pid))
            os.kill(pid, number)
            done += 1
    for fd in waits:
        if number == signal.SIGKILL:
            demand(select.select([fd], [], [], DEADLINE_S)[0], "a process survives SIGKILL")
        os.close(fd)
    return done


class Traffic:
    """Keeps a number of runs under way, cancels those that are to be, and checks what has ended."""

    def __init__(
        self,
        node: CrashNode,
        chance: random.Random,
        plan: Callable[[random.Random], Plan],
        at_once: int = 4,
    ) -> None:
        self.flights: list[Flight] = []
        self._node = node
        self._chance = chance
        self._plan = plan
        self._at_once = at_once

    def step(self, *, is_last: bool = False) -> None:
        """Looks after all runs, and submits others unless it is the last time."""
        for flight in list(self.flights):
            self._cancel_if_due(flight)
            if flight.run.refresh().is_final:
                self._node.witness.check(flight)
                self.flights.remove(flight)
        while not is_last and len(self.flights) < self._at_once:
            self.flights.append(self._node.submit(self._plan(self._chance)))

    def _cancel_if_due(self, flight: Flight) -> None:
        after_s = flight.plan.cancel_after_s
        if after_s is None or flight.is_cancelled:
            return
        if time.monotonic() - flight.submitted_s >= after_s:
            flight.run.cancel("the campaign wants it")
            flight.is_cancelled = True

    def active(self) -> list[Run]:
        """The runs under way."""
        return [flight.run for flight in self.flights]

    def settle(self, limit_s: float = DEADLINE_S) -> None:
        """Waits until all have ended; then no attempt was executed twice and no slot is lost."""
        deadline = time.monotonic() + limit_s
        while self.flights:
            self.step(is_last=True)
            stuck = [f"{f.run.id} {f.run.status} {f.plan}" for f in self.flights]
            demand(time.monotonic() < deadline, f"no final state: {stuck}")
            time.sleep(0.02)
        self._node.witness.check_executions()
