"""Instants and durations: microseconds UTC and seconds in records, well-known types on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

MAX_TIME_S = 253_402_300_799
"""The end of the year 9999: the last second that a Timestamp may name."""
MAX_DURATION_S = 315_576_000_000
"""The longest Duration, 10,000 years."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(at_us: int | None) -> Timestamp | None:
    """Microseconds since the Unix epoch as a Timestamp; None stays None (an unset field)."""
    if at_us is None:
        return None
    seconds, micros = divmod(at_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def set_instant(target: Timestamp | Duration, us: int) -> None:
    """Sets a field to microseconds since the Unix epoch, or to a duration of so many."""
    target.seconds, micros = divmod(us, 1_000_000)
    target.nanos = micros * 1000


def from_timestamp(at: Timestamp) -> int:
    """A Timestamp as microseconds since the Unix epoch, cut to whole ones.

    What lies before 1970 or after 9999 becomes the nearest time within: a peer may send anything.
    """
    seconds = min(max(0, at.seconds), MAX_TIME_S)
    return seconds * 1_000_000 + min(max(0, at.nanos), 999_999_999) // 1000


def read_time(text: str) -> int:
    """Microseconds since the Unix epoch of an RFC 3339 time or date, UTC where it names no zone.

    Raises ValueError for anything else.
    """
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def to_duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the microsecond."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return Duration(seconds=whole, nanos=micros * 1000)


def from_duration(duration: Duration) -> float:
    """A Duration in seconds, never beyond 10,000 years: a peer may send anything."""
    seconds = duration.seconds + duration.nanos / 1e9
    return min(max(-MAX_DURATION_S, seconds), MAX_DURATION_S)
