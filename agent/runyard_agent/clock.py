"""The agent's clocks: time since boot for durations, wall time for records."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Nanoseconds since boot, suspended time included; never steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def unix_ns() -> int:
    """Nanoseconds since 1970 UTC; may step when the clock is set."""
    return time.time_ns()


def boot_id() -> str:
    """The kernel's random name for this boot; empty where it can't be read."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
