"""kill -9 of supervisors, of a slot, of the warm parent and of both, while runs are active.

A run may be lost with the supervisor of its slot; then it says so. All others are whole.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial

from crash.cases import Campaign, Case
from support.crash_node import CrashNode, Traffic, kill
from support.witness import Plan, demand, mixed_plan

KILLS = 40
"""Of one home."""
LONGEST_PAUSE_S = 0.5
PARENT, SLOT, ALL, WITH_AGENT = "parent", "slot", "all", "with agent"


def plan_for_loss(chance: random.Random) -> Plan:
    """As everywhere, and with jobs that resist being ended."""
    if chance.random() < 0.2:
        habits = ("ignores_term", "closes_streams")
        seed = chance.randrange(1 << 30)
        return Plan(seed, lines=20, children=chance.randrange(20), habits=habits, linger_s=1.5)
    return mixed_plan(chance)


def run_kills(case: Case, victims: tuple[str, ...], kills: int = KILLS) -> Counter[str]:
    """A new home; supervisors of these kinds are killed again and again."""
    chance = case.chance
    did: Counter[str] = Counter()
    with CrashNode(case.folder) as node:
        node.supervisor_is_up()
        traffic = Traffic(node, chance, plan_for_loss)
        for _ in range(kills):
            traffic.step()
            time.sleep(chance.uniform(0, LONGEST_PAUSE_S))  # the moment is what is tried
            victim = chance.choice(victims)
            did[f"{victim} kills"] += _kill(node, traffic, chance, victim)
        traffic.settle()
        after = node.submit(Plan(case.number, lines=100, code=7))
        node.wait(after)
        demand(after.run.record.end is not None, "the node runs nothing any more")
        did["runs"] += node.witness.checked
        did["runs lost"] += node.witness.lost
    return did


def _kill(node: CrashNode, traffic: Traffic, chance: random.Random, victim: str) -> bool:
    """Kills; gives whether there was something to kill."""
    parent, slots = node.supervisors()
    pids = [parent] if parent is not None and victim != SLOT else []
    if victim != PARENT:
        pids += slots if victim != SLOT else chance.sample(slots, min(1, len(slots)))
        for flight in traffic.flights:
            flight.may_be_lost = True
            flight.may_lose_pipe |= victim != SLOT
    if victim == WITH_AGENT:
        pids += node.agent_pids()
    chance.shuffle(pids)
    is_one = bool(kill(pids))
    if victim == PARENT:
        node.start_supervisor()  # as the agent does when it needs one next
    if victim == WITH_AGENT:
        node.start_agent()
    return is_one


CAMPAIGNS = (
    Campaign(
        "parent-kill",
        "the warm parent's death is not noticed by any run",
        partial(run_kills, victims=(PARENT,)),
        full=4,
    ),
    Campaign(
        "supervisor-kill",
        "a run is lost and says so, or is whole; no process is left; the slot runs the next",
        partial(run_kills, victims=(SLOT, SLOT, ALL, WITH_AGENT)),
        full=10,
    ),
)
