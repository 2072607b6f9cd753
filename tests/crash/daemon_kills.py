"""kill -9 of the daemon: at random moments, and at each durable step that it makes."""

from __future__ import annotations

import threading
import time
from collections import Counter

from crash.cases import Campaign, Case, Over
from crash.yard import Yard
from support.faults import Action, Faults

KILLS = 25
"""Of one home, its first start included."""
LONGEST_LIFE_S = 0.8
"""A start takes some 0.3 s, so that kills meet starts, reconciliation and work."""
RUNS_PER_KILL = 2
SUBMITTERS = 2


def at_random(case: Case, kills: int = KILLS) -> Counter[str]:
    """A new home; its daemon is killed again and again while runs are submitted and end."""
    chance = case.chance
    turns = threading.Semaphore(0)
    lives = iter(range(kills))
    with Yard(case.folder) as yard:

        def submit_some() -> None:
            try:
                for _ in range(kills * RUNS_PER_KILL // SUBMITTERS):
                    turns.acquire()
                    yard.submit()
            except BaseException:
                turns.release(kills * RUNS_PER_KILL)  # so that nobody waits for a turn any more
                raise

        def live() -> None:
            yard.daemon.spawn()
            if next(lives, None) is not None:
                turns.release(RUNS_PER_KILL)
                time.sleep(chance.uniform(0, LONGEST_LIFE_S))  # the moment is what is tried
                yard.daemon.kill()

        yard.keep_serving_until([submit_some] * SUBMITTERS, live)
        yard.settle()
        yard.check_journal()
        yard.close()
        blobs = yard.check_files()
    return Counter(kills=kills, runs=len(yard.acknowledged), blobs=blobs)


def at_step(case: Case) -> Counter[str]:
    """A new home; its first daemon is killed at its n-th durable step, n being the case."""
    injected = Faults(case.folder, case.folder / "h")
    with Yard(case.folder) as yard:
        torn = case.chance.random() < 0.5
        injected.arm(Action.KILL_TORN if torn else Action.KILL, case.number)
        yard.daemon.spawn(injected.environment)
        yard.keep_serving_until([yard.run_one], yard.daemon.start)
        yard.stop()
        yard.settle()
        yard.check_journal()
        yard.close()
        blobs = yard.check_files()
        if injected.steps < case.number:
            raise Over
    return Counter(kills=1, runs=len(yard.acknowledged), blobs=blobs)


CAMPAIGNS = (
    Campaign(
        "daemon-kill-random",
        "acknowledged runs exist once, end, with whole log, metrics and output",
        at_random,
        full=40,
    ),
    Campaign(
        "daemon-kill-step",
        "the same, killed before or within each durable step in turn",
        at_step,
        full=1000,
    ),
)
