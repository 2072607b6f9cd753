"""What the peers' programs share. Standard library only: each runs in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

MARKER_LIMIT_S = 10.0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A short folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ry-peer-", dir="/tmp") as folder:
        yield Path(folder)


def until_marker(folder: Path, submit: Callable[[str], object]) -> float:
    """Milliseconds from submitting `touch FILE` until the file is there."""
    marker = folder / f"marker{time.monotonic_ns()}"
    begin = time.perf_counter()
    submit(str(marker))
    while not marker.exists():
        if time.perf_counter() - begin > MARKER_LIMIT_S:
            raise TimeoutError(f"{marker} did not appear")
        time.sleep(0.0002)
    return (time.perf_counter() - begin) * 1e3


def latencies(folder: Path, submit: Callable[[str], object], rounds: int) -> dict[str, float]:
    """Median and 95th percentile of `until_marker`, one after the other."""
    figures = []
    for _ in range(rounds):
        figures.append(until_marker(folder, submit))
        time.sleep(0.03)
    figures.sort()
    return {
        "latency_ms": statistics.median(figures),
        "latency_p95_ms": figures[int(0.95 * len(figures))],
    }


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size of processes together."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def descendants(root: int) -> list[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{entry}/stat").read_text()
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        found.append(todo[-1])
        todo.extend(children.get(todo.pop(), []))
    return found


def end_all(pids: Iterable[int]) -> None:
    """Kills processes; those that have ended are left alone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def report(figures: dict[str, float]) -> None:
    """The program's answer, one JSON object on its standard output."""
    json.dump(figures, sys.stdout)
    sys.stdout.write("\n")
