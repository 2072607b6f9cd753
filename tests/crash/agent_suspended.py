"""All processes of the node, or some of them, are stopped for longer than a lease, and go on."""

from __future__ import annotations

import signal
import time
from collections import Counter

from crash.cases import Campaign, Case
from runyard_contract.states import RunState
from support.crash_node import CrashNode, Traffic, kill
from support.house import eventually
from support.witness import Plan, mixed_plan

OUT_OF_TOUCH_S = 1.0
STOPPED_S = 1.5
SUSPENSIONS = 5
"""Of one home."""
MACHINE, AGENT, DAEMON, SUPERVISORS = "machine", "agent", "daemon", "supervisors"


def run_suspensions(case: Case, suspensions: int = SUSPENSIONS) -> Counter[str]:
    """A new home; again and again something is stopped while runs are active."""
    chance = case.chance
    did: Counter[str] = Counter()
    with CrashNode(case.folder, out_of_touch_s=OUT_OF_TOUCH_S) as node:
        traffic = Traffic(node, chance, mixed_plan)
        for number in range(suspensions):
            traffic.step()
            time.sleep(chance.uniform(0.1, 0.6))  # the moment is what is tried
            what = MACHINE if number % 2 == 0 else chance.choice((AGENT, DAEMON, SUPERVISORS))
            pids = _processes(node, what)
            kill(pids, signal.SIGSTOP)
            time.sleep(STOPPED_S)
            kill(pids, signal.SIGCONT)
            did[f"{what} stopped"] += 1
        traffic.settle()
        did["runs"] += node.witness.checked
    return did


def _processes(node: CrashNode, what: str) -> list[int]:
    if what == MACHINE:
        return node.all_pids()
    if what == AGENT:
        return node.agent_pids()
    if what == DAEMON:
        return [node.daemon_pid]
    parent, slots = node.supervisors()
    return [*slots, *([parent] if parent else [])]


def run_silence(case: Case) -> Counter[str]:
    """A new home; its agent is stopped until its run is shown as out of touch, and goes on."""
    with CrashNode(case.folder, out_of_touch_s=OUT_OF_TOUCH_S) as node:
        flight = node.submit(Plan(case.number, lines=800, pause_s=0.005, metric_every=3, code=5))
        run = flight.run
        eventually(lambda: run.refresh().state is RunState.RUNNING, what="running")
        pids = node.agent_pids()
        kill(pids, signal.SIGSTOP)
        eventually(lambda: run.refresh().state is RunState.NOT_RESPONDING, what="out of touch")
        time.sleep(case.chance.uniform(0, 3.0))  # the job ends before its agent is back, or after
        kill(pids, signal.SIGCONT)
        node.wait(flight)
        node.witness.check_executions()
    return Counter({"agent stopped": 1, "runs": 1})


CAMPAIGNS = (
    Campaign(
        "agent-silent",
        "the run is shown as NOT_RESPONDING, goes on, and is whole when its agent is back",
        run_silence,
        full=10,
    ),
    Campaign(
        "suspended",
        "nothing is lost, doubled or ended wrongly; others are unharmed",
        run_suspensions,
        full=10,
    ),
)
