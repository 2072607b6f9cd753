"""kill -9 of the agent, and of agent and daemon together, while runs of all kinds are active."""

from __future__ import annotations

import time
from collections import Counter

from crash.cases import Campaign, Case
from support.crash_node import CrashNode, Traffic, kill
from support.witness import mixed_plan

KILLS = 25
"""Of one home."""
LONGEST_LIFE_S = 1.0
"""An agent takes some 0.5 s to start, so that kills meet starts, adoption and work."""


def run_kills(case: Case, kills: int = KILLS) -> Counter[str]:
    """A new home; its agent is killed again and again, and every third time the daemon with it."""
    chance = case.chance
    did: Counter[str] = Counter()
    with CrashNode(case.folder) as node:
        traffic = Traffic(node, chance, mixed_plan)
        for _ in range(kills):
            traffic.step()
            time.sleep(chance.uniform(0, LONGEST_LIFE_S))  # the moment is what is tried
            victims = node.agent_pids()
            did["agent kills"] += bool(victims)
            with_daemon = chance.random() < 1 / 3
            if with_daemon:
                victims.insert(chance.randrange(len(victims) + 1), node.daemon_pid)
                did["daemon kills"] += 1
            kill(victims)
            if with_daemon:
                node.start_daemon()
            else:
                node.start_agent()
        traffic.settle()
        did["runs"] += node.witness.checked
    return did


CAMPAIGNS = (
    Campaign(
        "agent-kill",
        "runs go on, are executed once, end with their true exit codes, whole logs and files",
        run_kills,
        full=24,
    ),
)
