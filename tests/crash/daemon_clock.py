"""The wall clock of daemon, agent, supervisor and jobs jumps by an hour, both ways, at work."""

from __future__ import annotations

from collections import Counter

from crash.cases import Campaign, Case
from crash.yard import Yard
from support.faults import Faults

HOUR_S = 3600
JUMPS = 4
RUNS_PER_JUMP = 3
IDLE_END_S = "600"
"""Shorter than a jump: a daemon that took the wall clock for passing time would end."""


def jumps(case: Case) -> Counter[str]:
    """Runs are submitted and end while the clock jumps; nothing is lost, doubled or reordered."""
    injected = Faults(case.folder, case.folder / "h")
    chance = case.chance
    environment = injected.environment | {"FAULTS_INHERIT": "1", "RUNYARD_IDLE_END_S": IDLE_END_S}
    with Yard(case.folder) as yard:
        yard.daemon.spawn(environment)
        names = [yard.submit()]
        yard.client.wait_final(names)
        for _ in range(JUMPS):
            names += [yard.submit() for _ in range(RUNS_PER_JUMP)]
            injected.shift_clock(chance.choice((-HOUR_S, 0, HOUR_S)))
        pid = yard.daemon.pid
        yard.settle()
        assert yard.daemon.is_alive(), "the daemon ended"
        assert yard.daemon.pid == pid, "the daemon was started again"
        assert list(reversed(yard.client.names())) == names, "not in the order of submits"
        ended = [event for event in yard.events() if event["event"] == "agent_session_ended"]
        assert not ended, f"the agent was lost: {ended}"
        yard.check_journal()
        yard.close()
        yard.check_files()
    return Counter(jumps=JUMPS, runs=len(names))


CAMPAIGNS = (
    Campaign(
        "clock-jumps",
        "nothing expires, runs keep their order and end once",
        jumps,
        full=20,
    ),
)
