"""What every benchmark needs: a runyard home of its own, figures as text, the machine's state."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

RUNYARD = str(Path(sys.executable).with_name("runyard"))


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


def row(what: str, figure: str, beside: str, ratio: float | None, budget: str) -> None:
    """Prints one line of the table: what, figure, peer or floor, ratio, budget of the design."""
    share = "" if ratio is None else f"{ratio:.2f}"
    print(f"| {what} | {figure} | {beside} | {share} | {budget} |", flush=True)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its reaped children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    """Load of the last minute: over about 0.5 before the start, figures are noisy."""
    return os.getloadavg()[0]
