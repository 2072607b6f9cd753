"""What a container used, as its first process has copied it out of its control group."""

from __future__ import annotations

import os

USED = "container.used"
"""The file of the bundle that is copied into."""
_UNITS = {
    "cpu.stat user_usec": ("user_cpu_s", 1e-6),
    "cpu.stat system_usec": ("system_cpu_s", 1e-6),
    "memory.peak": ("max_rss_bytes", 1),
    "cpuacct.usage_user": ("user_cpu_s", 1e-9),
    "cpuacct.usage_sys": ("system_cpu_s", 1e-9),
    "memory.max_usage_in_bytes": ("max_rss_bytes", 1),
}
"""Fields of a group's files, version 2 and 1: what they are in an exit record, and their unit."""


def make(bundle: str) -> None:
    """Makes the file, empty; the container has it mounted."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(f"{bundle}/{USED}", flags, 0o600))


def read(bundle: str) -> dict[str, float]:
    """What was used, in the fields of an exit record; empty where that is not known.

    A group without a peak of memory is the whole machine's, or of a kernel too old to tell.
    """
    try:
        with open(f"{bundle}/{USED}", "rb") as file:
            lines = file.read(1 << 16).decode("ascii", "replace").splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in lines:
        name, _, amount = line.strip().rpartition(" ")
        known = _UNITS.get(name)
        if known is not None and amount.isascii() and amount.isdigit() and len(amount) < 20:
            field, unit = known
            found[field] = int(amount) * unit
    return found if "max_rss_bytes" in found else {}
