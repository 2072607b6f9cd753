"""Runs the state machines of models, the same way on every machine."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def check(
    machine: type[RuleBasedStateMachine], examples: int, *, steps: int, is_seeded: bool
) -> None:
    """Tries so many histories of at most so many steps; raises what the machine raises.

    With `is_seeded` the machine has a bug, which need only be found, not shrunk.
    """
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phase.generate] if is_seeded else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
