from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.states import RunState
from runyard_daemon.core.retention import Chooser, KeptRun, RetentionPolicy

NOW_US = 1_000_000
STATES = (RunState.QUEUED, RunState.RUNNING, RunState.COMPLETED, RunState.FAILED)


def run(sequence: int, state: RunState = RunState.COMPLETED, **fields: object) -> KeptRun:
    values = {"experiment": "iris", "end_time_us": sequence, "size_bytes": 10} | fields
    return KeptRun(sequence, f"run_{sequence}", state=state, **values)  # type: ignore[arg-type]


def chosen(policy: RetentionPolicy, runs: list[KeptRun]) -> list[int]:
    chooser = Chooser(policy, NOW_US)
    newest_first = sorted(runs, key=lambda one: -one.sequence)
    return [one.sequence for one in newest_first if chooser.is_to_go(one)]


def test_runs_that_ended_longer_ago_go() -> None:
    runs = [run(n, end_time_us=n * 100_000) for n in range(1, 10)]

    assert chosen(RetentionPolicy(max_age_us=600_000), runs) == [3, 2, 1]


def test_the_newest_of_each_experiment_stay_however_old() -> None:
    runs = [run(n, experiment=("iris", "wine")[n % 2]) for n in range(1, 9)]

    assert chosen(RetentionPolicy(max_age_us=0, keep_last=3), runs) == [2, 1]
    assert chosen(RetentionPolicy(keep_last=3), runs) == [2, 1]


def test_older_runs_go_once_the_newer_fill_the_size() -> None:
    runs = [run(1, size_bytes=1), run(2, size_bytes=50), run(3, size_bytes=40), run(4)]

    assert chosen(RetentionPolicy(max_size_bytes=60), runs) == [2, 1]


def test_only_runs_in_the_wanted_states_go() -> None:
    runs = [run(n, STATES[2 + n % 2]) for n in range(1, 5)]

    policy = RetentionPolicy(max_age_us=0, states=frozenset({RunState.FAILED}))

    assert chosen(policy, runs) == [3, 1]


POLICIES = st.builds(
    RetentionPolicy,
    max_age_us=st.none() | st.integers(0, NOW_US),
    max_size_bytes=st.none() | st.integers(1, 200),
    keep_last=st.integers(0, 3),
    states=st.frozensets(st.sampled_from(STATES[2:])),
)
RUNS = st.lists(
    st.tuples(st.sampled_from(STATES), st.sampled_from(["iris", "wine"]), st.integers(0, NOW_US)),
    max_size=12,
)


@given(POLICIES, RUNS)
def test_no_policy_removes_an_active_run_or_one_of_the_last(
    policy: RetentionPolicy, drawn: list[tuple[RunState, str, int]]
) -> None:
    runs = [
        run(n, state, experiment=experiment, end_time_us=end_us if state.is_final else None)
        for n, (state, experiment, end_us) in enumerate(drawn)
    ]

    gone = set(chosen(policy, runs))

    assert all(one.state.is_final for one in runs if one.sequence in gone)
    for experiment in ("iris", "wine"):
        ended = [one for one in runs if one.experiment == experiment and one.state.is_final]
        last = ended[-policy.keep_last :] if policy.keep_last else []
        assert not gone & {one.sequence for one in last}
