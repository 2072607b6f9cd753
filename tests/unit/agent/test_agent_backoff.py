from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.core.backoff import Backoff

BACKOFFS = st.builds(Backoff, first_s=st.floats(0.001, 10), cap_s=st.floats(0.001, 100))


def test_backoff_window_doubles_up_to_its_cap() -> None:
    backoff = Backoff(first_s=0.05, cap_s=1.0)

    windows = [backoff.window_s(failures) for failures in range(1, 8)]

    assert windows == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@given(BACKOFFS, st.integers(0, 10**9), st.floats(0, 1))
def test_backoff_delay_stays_in_its_window(backoff: Backoff, failures: int, uniform: float) -> None:
    delay_s = backoff.delay_s(failures, uniform)

    assert 0 <= delay_s <= backoff.window_s(failures) <= backoff.cap_s


@given(BACKOFFS, st.integers(1, 200))
def test_backoff_window_never_shrinks_with_failures(backoff: Backoff, failures: int) -> None:
    assert backoff.window_s(failures) <= backoff.window_s(failures + 1)
