"""kill -9 of agent and supervisor at each durable step that they make, one step after the other.

The steps are those from the start of the process over lease, preparation, spawn, report and
clean-up of two runs and a cancelled one; jobs note each execution before they do anything else.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from crash.cases import Campaign, Case, Over
from support.crash_node import CrashNode, Traffic
from support.faults import Action, Faults
from support.witness import Plan

AGENT, SUPERVISOR = "agent", "supervisor"


def kill_at_step(case: Case, victim: str) -> Counter[str]:
    """A new home; the victim is killed at its n-th durable step, n being the case."""
    node = CrashNode(case.folder)
    faults = Faults(case.folder, node.home)
    torn = case.chance.random() < 0.5
    node.make_home()
    faults.arm(Action.KILL_TORN if torn else Action.KILL, case.number)
    if victim == AGENT:
        node.start_agent(env=faults.environment)
    else:
        node.start_supervisor(faults.environment)
    with node:
        traffic = Traffic(node, case.chance, lambda chance: _plan(case.number), at_once=0)
        for number in range(3):
            flight = node.submit(_plan(case.number + number))
            flight.may_be_lost = flight.may_lose_pipe = victim == SUPERVISOR
            traffic.flights.append(flight)
        endless = Plan(case.number, lines=1 << 20, pause_s=0.002, cancel_after_s=0.3)
        last = node.submit(endless)
        last.may_be_lost = last.may_lose_pipe = victim == SUPERVISOR
        traffic.flights.append(last)
        traffic.settle()
        if faults.steps < case.number:
            raise Over
    return Counter({"runs": 4, "kills": 1, "runs lost": node.witness.lost})


def _plan(seed: int) -> Plan:
    """A quick job with a bit of everything."""
    return Plan(seed, lines=30, pause_s=0.001, metric_every=4, output_bytes=500, code=seed % 5)


CAMPAIGNS = (
    Campaign(
        "agent-step",
        "killed before or within each durable step: executed at most once, whole, true end",
        partial(kill_at_step, victim=AGENT),
        full=400,
    ),
    Campaign(
        "supervisor-step",
        "the same for the supervisors: whole, or lost and said so; at most one execution",
        partial(kill_at_step, victim=SUPERVISOR),
        full=400,
    ),
)
