"""Durations, sizes and times for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def duration_text(seconds: float) -> str:
    """A duration: "12 ms", "1.4 s", "12 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"."""
    if seconds < 0.9995:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return _two(whole, _MINUTE_S, "min", 1, "s")
    if whole < _DAY_S:
        return _two(whole, _HOUR_S, "h", _MINUTE_S, "min")
    return _two(whole, _DAY_S, "d", _HOUR_S, "h")


def _two(whole_s: int, large_s: int, large: str, small_s: int, small: str) -> str:
    """A duration in two units; the smaller one is left out when it is zero."""
    count, rest_s = divmod(whole_s, large_s)
    rest = rest_s // small_s
    return f"{count:,} {large} {rest} {small}" if rest else f"{count:,} {large}"


def count_text(count: int, one: str, more: str = "") -> str:
    """A number of things: "1 file", "2,000 files"."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def local_time(time: datetime | None) -> str:
    """A time in the reader's zone, with the zone's name; empty for none."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}" if time is not None else ""


def utc_time(time: datetime | None) -> str | None:
    """A UTC time as RFC 3339 with Z, for JSON; microseconds where there are any."""
    return time.isoformat().replace("+00:00", "Z") if time is not None else None


def message_time(message: Message, field: str) -> datetime | None:
    """The UTC time in a field of a message, None where it is not set."""
    if not message.HasField(field):
        return None
    found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return found
