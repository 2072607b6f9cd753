"""Which ended runs are to go, by age, number and total size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from runyard_contract.states import RunState


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What may go. Of `max_age_us`, `max_size_bytes` and `keep_last` at least one is given."""

    max_age_us: int | None = None
    """Runs that ended longer ago go."""
    max_size_bytes: int | None = None
    """The newest runs stay up to this total size; what is older goes."""
    keep_last: int = 0
    """The newest ended runs of each experiment that stay in any case. Alone: all others go."""
    states: frozenset[RunState] = frozenset()
    """Only runs in one of these go; empty: in any final state."""

    @property
    def has_reason(self) -> bool:
        """Whether it can choose anything at all."""
        return self.max_age_us is not None or self.max_size_bytes is not None or self.keep_last > 0


class KeptRun(NamedTuple):
    """What the choice needs to know of a run. A tuple: there may be a million."""

    sequence: int
    run_id: str
    experiment: str
    state: RunState
    end_time_us: int | None
    size_bytes: int
    """Of logs, metrics and registered files."""


class Chooser:
    """Judges the runs of a scope one after another, from the newest submit to the oldest."""

    def __init__(self, policy: RetentionPolicy, now_us: int) -> None:
        self._policy = policy
        self._now_us = now_us
        self._kept_bytes = 0
        self._is_over_size = False
        self._ended: dict[str, int] = {}

    def is_to_go(self, run: KeptRun) -> bool:
        """Whether this run goes. Runs that have not ended never do, but their size counts."""
        is_to_go = self._is_candidate(run) and self._has_reason(run)
        if not is_to_go:
            self._kept_bytes += run.size_bytes
        return is_to_go

    def _is_candidate(self, run: KeptRun) -> bool:
        """Whether the policy lets this run go for a reason."""
        if not run.state.is_final:
            return False
        rank = self._ended[run.experiment] = self._ended.get(run.experiment, 0) + 1
        if rank <= self._policy.keep_last:
            return False
        return not self._policy.states or run.state in self._policy.states

    def _has_reason(self, run: KeptRun) -> bool:
        policy = self._policy
        if policy.max_size_bytes is not None:
            # Once a run does not fit, none that is older stays because it happens to be smaller.
            total_bytes = self._kept_bytes + run.size_bytes
            self._is_over_size = self._is_over_size or total_bytes > policy.max_size_bytes
        if policy.max_age_us is None and policy.max_size_bytes is None:
            return True
        is_old = (
            policy.max_age_us is not None
            and run.end_time_us is not None
            and run.end_time_us < self._now_us - policy.max_age_us
        )
        return is_old or self._is_over_size
