"""Jobs that resist their end, while agent and supervisors are killed around them."""

from __future__ import annotations

import random
import time
from collections import Counter

from crash.cases import Campaign, Case
from support.crash_node import CrashNode, Traffic, kill
from support.witness import Plan

KILLS = 6
"""Of one home."""
FLOOD_BYTES = 200_000_000


def nasty_plan(chance: random.Random) -> Plan:
    """A job that leaves processes, ignores SIGTERM, closes its streams, or all of it."""
    seed = chance.randrange(1 << 30)
    habits = tuple(h for h in ("ignores_term", "closes_streams") if chance.random() < 0.5)
    children = chance.choice((0, 1, 5, 200))
    plan = {"seed": seed, "children": children, "habits": habits, "linger_s": 1.0}
    if chance.random() < 0.5:
        return Plan(lines=1 << 20, pause_s=0.005, cancel_after_s=chance.uniform(0.1, 2.0), **plan)
    return Plan(lines=chance.randrange(1, 200), pause_s=0.002, code=3, **plan)


def run_nasty(case: Case, kills: int = KILLS) -> Counter[str]:
    """A new home full of such jobs; who looks after them is killed meanwhile."""
    chance = case.chance
    with CrashNode(case.folder) as node:
        traffic = Traffic(node, chance, nasty_plan)
        for _ in range(kills):
            traffic.step()
            time.sleep(chance.uniform(0, 1.0))  # the moment is what is tried
            _, slots = node.supervisors()
            if chance.random() < 0.5 and slots:
                for flight in traffic.flights:
                    flight.may_be_lost = True
                kill([chance.choice(slots)])
            else:
                kill(node.agent_pids())
                node.start_agent()
        traffic.settle()
    return Counter(kills=kills, runs=node.witness.checked, **{"runs lost": node.witness.lost})


def run_flood(case: Case) -> Counter[str]:
    """A new home; a job prints one endless line while its agent is killed."""
    chance = case.chance
    with CrashNode(case.folder) as node:
        traffic = Traffic(node, chance, nasty_plan, at_once=0)
        plan = Plan(1, lines=FLOOD_BYTES // 8, block=8192, habits=("flood",), code=4)
        traffic.flights.append(node.submit(plan))
        for _ in range(2):
            time.sleep(chance.uniform(0, 2.0))  # the moment is what is tried
            kill(node.agent_pids())
            node.start_agent()
        traffic.settle()
    return Counter(MB=node.witness.bytes_checked // 1_000_000, runs=1, kills=2)


CAMPAIGNS = (
    Campaign(
        "nasty-job",
        "no process outlives its run, each run ends, the slots go on",
        run_nasty,
        full=12,
    ),
    Campaign(
        "flood", "200 MB without a newline are stored as they were printed", run_flood, full=2
    ),
)
