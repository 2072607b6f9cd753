"""When a token is taken: pure decisions about what is kept of it."""

from __future__ import annotations

from typing import Final

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
PERSON_US: Final = 90 * DAY_US
"""How long a person's token is taken unless said otherwise."""
PERSON_MOST_US: Final = 3650 * DAY_US
MACHINE_US: Final = HOUR_US
MACHINE_MOST_US: Final = 7 * DAY_US
USES_MOST: Final = 1000
USE_NOTED_US: Final = 300_000_000
"""A use is noted that long after the one noted before: seldom enough to cost nothing."""


def is_taken(now_us: int, expire_time_us: int, revoke_time_us: int | None) -> bool:
    """Whether a token counts at this moment."""
    return revoke_time_us is None and now_us < expire_time_us


def expiry_us(now_us: int, lifetime_us: int, *, is_machine: bool) -> int:
    """From when a new token is refused.

    Args:
        lifetime_us: what was asked for; 0: the usual.

    Raises ValueError, saying what the bounds are.
    """
    usual, most = (MACHINE_US, MACHINE_MOST_US) if is_machine else (PERSON_US, PERSON_MOST_US)
    lifetime_us = lifetime_us or usual
    if not 1_000_000 <= lifetime_us <= most:
        raise ValueError(f"is not from one second to {most // DAY_US} days")
    return now_us + lifetime_us


def is_use_noted(now_us: int, last_use_us: int | None) -> bool:
    """Whether a use is written down."""
    return last_use_us is None or now_us - last_use_us >= USE_NOTED_US
