"""Amounts as people write them: sizes of memory, durations, shares of processors."""

from __future__ import annotations

import math
import re

from runyard_contract.errors import SpecInvalid
from runyard_contract.limits import (
    CPUS_MAX,
    GPUS_MAX,
    MAX_DURATION_S,
    MEMORY_MAX_BYTES,
    PRIORITY_MAX,
    PRIORITY_MIN,
)

# Texts: `re` compiles them when they are needed, which for most commands is never.
_SIZE = r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)b?|b)?"
_GRACE_MAX_S = 3600
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s?)?"


def _refuse(field: str, value: object, rule: str) -> SpecInvalid:
    """The error for a value that a field can't have."""
    return SpecInvalid(
        violations=[(field, f"{str(value)[:100]!r} is not {rule}")], value=str(value)
    )


def memory_bytes(value: int | str) -> int:
    """A size in bytes, from a number of bytes or a text such as "512M", "2 GiB" or "1.5g".

    K, M, G and T are powers of 1,024. Raises SpecInvalid.
    """
    rule = 'a size such as 2GiB or "512M", over 0 and at most 64 TiB'
    found = re.fullmatch(_SIZE, str(value).strip(), re.IGNORECASE)
    if found is None:
        raise _refuse("memory", value, rule)
    power = _POWERS[found[2].lower()] if found[2] else 0
    size = int(float(found[1]) * 1024**power)
    if not 0 < size <= MEMORY_MAX_BYTES:
        raise _refuse("memory", value, rule)
    return size


def duration_s(value: float | str) -> float:
    """Seconds, from a number of seconds or a text such as "90", "30m", "1h30m" or "2d".

    Raises SpecInvalid for what is not over 0 and at most 366 days.
    """
    rule = 'a duration such as 90, "30m", "1h30m" or "2d", over 0 and at most 366 days'
    text = str(value).strip().lower()
    found = re.fullmatch(_DURATION, text)
    if not text or found is None:
        raise _refuse("max_duration", value, rule)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    if not 0 < total <= MAX_DURATION_S:
        raise _refuse("max_duration", value, rule)
    return total


def grace_s(value: float | str) -> float:
    """Seconds from 0 to 3,600. Raises SpecInvalid."""
    rule = f"a number of seconds from 0 to {_GRACE_MAX_S}"
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise _refuse("cancel_grace", value, rule) from None
    if not 0 <= seconds <= _GRACE_MAX_S:
        raise _refuse("cancel_grace", value, rule)
    return seconds


def cpu_millicores(value: float | str) -> int:
    """Thousandths of a core, from a number of cores such as 2 or "0.5". Raises SpecInvalid."""
    rule = f"a number of cores, over 0 and at most {CPUS_MAX}"
    try:
        cores = float(value)
    except (TypeError, ValueError):
        raise _refuse("cpus", value, rule) from None
    if not math.isfinite(cores) or not 0.001 <= cores <= CPUS_MAX:
        raise _refuse("cpus", value, rule)
    return round(cores * 1000)


def gpu_count(value: int | str) -> int:
    """A number of GPUs, 0 or more. Raises SpecInvalid."""
    return _whole("gpus", value, 0, GPUS_MAX)


def priority(value: int | str) -> int:
    """A priority; higher goes first. Raises SpecInvalid."""
    return _whole("priority", value, PRIORITY_MIN, PRIORITY_MAX)


def _whole(field: str, value: int | str, least: int, most: int) -> int:
    """A whole number in a range."""
    rule = f"a whole number from {least} to {most}"
    try:
        number = int(str(value).strip())
    except ValueError:
        raise _refuse(field, value, rule) from None
    if not least <= number <= most:
        raise _refuse(field, value, rule)
    return number
