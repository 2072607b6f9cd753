"""What every benchmark needs: a runyard home of its own, figures as text, the machine's state."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

RUNYARD = str(Path(sys.executable).with_name("runyard"))
PEER_FIGURES = "RUNYARD_BENCH_PEERS"
"""Environment variable: the file with what the peers of this run gave (see run_all.py)."""
QUIET_SHARE = 0.9
"""Idle share of all cores from which the machine counts as quiet."""


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder with RUNYARD_HOME in it, set for this process; its daemon is stopped at the end."""
    # Bytecode is part of what is measured: without it every start compiles.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.pop("PYTHONUNBUFFERED", None)
    root = Path(tempfile.mkdtemp(prefix="ry-bench-", dir="/tmp"))
    os.environ["RUNYARD_HOME"] = str(root / "home")
    try:
        yield root
    finally:
        subprocess.run(
            [RUNYARD, "daemon", "stop", "--cancel-runs"], capture_output=True, check=False
        )
        shutil.rmtree(root, ignore_errors=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of the sorted values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], unit: str) -> str:
    """Median and 95th percentile as text."""
    return f"p50 {statistics.median(values):.1f} {unit}, p95 {percentile(values, 0.95):.1f} {unit}"


def row(
    what: str,
    figure: str,
    beside: str,
    ratio: float | None,
    budget: str,
    is_met: bool | None = None,
) -> None:
    """Prints one line of the table: what, figure, peer or floor, ratio, budget, met or not.

    `is_met` None: the line has no budget, or could not be judged.
    """
    share = "" if ratio is None else f"{ratio:.2f}"
    verdict = {True: "yes", False: "**no**", None: ""}[is_met]
    print(f"| {what} | {figure} | {beside} | {share} | {budget} | {verdict} |", flush=True)


def peer(name: str, figure: str) -> float | None:
    """A figure that a peer gave in this run of all benchmarks; None where it could not be had."""
    path = os.environ.get(PEER_FIGURES)
    if not path:
        return None
    given = json.loads(Path(path).read_text()).get(name, {}).get(figure)
    return None if given is None else float(given)


def beside(**figures: tuple[float | None, str]) -> str:
    """Peers' figures as text, those that could not be had left out: `name=(figure, unit)`."""
    known = [
        f"{name.replace('_', ' ')} {value:.{0 if value >= 100 else 1}f} {unit}"
        for name, (value, unit) in figures.items()
        if value is not None
    ]
    return "; ".join(known)


def own_cpu_seconds(pid: int) -> float:
    """CPU time of a process without its children, to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_mib(pid: int, measure: str = "Rss") -> float:
    """Resident ("Rss") or proportional ("Pss") set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{measure}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(measure)


def processes_of(home: Path) -> dict[str, list[int]]:
    """Pids of daemon, agent and supervisors that belong to this home."""
    found: dict[str, list[int]] = {"daemon": [], "agent": [], "supervisor": []}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{entry}/cmdline").read_bytes() if entry.isdigit() else b""
            if str(home).encode() not in command:
                continue
            for role, mark in (
                ("supervisor", b"runyard-supervisor"),
                ("agent", b"runyard_agent"),
                ("daemon", b"runyard_daemon"),
            ):
                if mark in command:
                    found[role].append(int(entry))
                    break
    return found


def load_average() -> float:
    """Load of the last minute."""
    return os.getloadavg()[0]


def idle_share(over_s: float = 1.5) -> float:
    """Share of all cores that was idle over the time given."""
    idle, total = _cpu_times()
    time.sleep(over_s)
    idle_after, total_after = _cpu_times()
    return (idle_after - idle) / max(1, total_after - total)


def wait_until_quiet(at_most_s: float) -> bool:
    """Waits until the machine is idle; False: it was not within the time."""
    deadline = time.monotonic() + at_most_s
    while idle_share() < QUIET_SHARE:
        if time.monotonic() > deadline:
            return False
    return True


def _cpu_times() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return fields[3] + fields[4], sum(fields[:8])
