"""A short case of each campaign against agent and supervisor, with another seed at each run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from crash import agent_cuts, agent_jobs, agent_kills, agent_steps, agent_suspended
from crash import agent_supervisor_kills as supervisor_kills
from crash.campaign import run_case
from crash.cases import Campaign, Case
from support import faults

pytestmark = pytest.mark.slow

SEED = random.SystemRandom().randrange(1 << 32)


def run(name: str, short: Callable[[Case], Counter[str]], number: int = 1) -> Counter[str]:
    """Runs a case that is shorter than those of `make crash`."""
    return run_case(Campaign(name, "as in make crash", short, full=1), number, SEED)


def test_killed_agent_and_daemon_harm_no_run() -> None:
    assert run("agent-kill", partial(agent_kills.run_kills, kills=3))["runs"] > 2


def test_killed_supervisors_give_a_clear_end_and_leave_no_process() -> None:
    victims = (supervisor_kills.PARENT, supervisor_kills.SLOT, supervisor_kills.ALL)
    short = partial(supervisor_kills.run_kills, victims=victims, kills=5)

    assert run("supervisor-kill", short)["runs"] > 2


@pytest.mark.skipif(bool(faults.lacking()), reason=faults.lacking() or "possible")
@pytest.mark.parametrize("victim", [agent_steps.AGENT, agent_steps.SUPERVISOR])
def test_killed_within_a_step_executes_nothing_twice(victim: str) -> None:
    step = random.Random(SEED).randrange(1, 20)
    short = partial(agent_steps.kill_at_step, victim=victim)

    assert run(f"{victim}-step", short, step)["kills"] == 1


def test_cut_connection_loses_and_doubles_nothing() -> None:
    assert run("connection-cut", partial(agent_cuts.run_cuts, cuts=2, lines=20_000))["cuts"] > 1


def test_stopped_machine_goes_on() -> None:
    short = partial(agent_suspended.run_suspensions, suspensions=1)

    assert run("suspended", short)["machine stopped"] == 1


def test_nasty_jobs_leave_nothing() -> None:
    assert run("nasty-job", partial(agent_jobs.run_nasty, kills=2))["runs"] > 2
