"""Large amounts, each seen to be whole: a queue over a crash, many clients, much log and output.

`python benchmarks/scale.py [SHARE]`: with 0.1 a tenth of each amount (default 1).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from machine import memory_mib, processes_of, row, temporary_home

if TYPE_CHECKING:
    from runyard import Run

QUEUED = 10_000
CLIENTS = 200
LOG_BYTES = 1 << 30
FLOOD_BYTES = 200 << 20
SLOW_BYTES = 50 << 20
SLOW_READS = 20
OUTPUTS = 100_000
PRINTER = """
import os, sys
size, has_lines = int(sys.argv[1]), sys.argv[2] == "lines"
line = (b"%016d" % 7 * 6 + b"abc\\n") if has_lines else b"x" * 100
block = line * 10_000
for _ in range(size // len(block)):
    os.write(1, block)
"""
WRITER = """
import os, sys
for number in range(int(sys.argv[1])):
    folder = f"outputs/{number // 1000}"
    if number % 1000 == 0:
        os.makedirs(folder)
    with open(f"{folder}/{number}", "w") as file:
        file.write(str(number))
"""


class Machine:
    """A home with its daemon, and what its processes take at most."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "project"
        self.folder.mkdir()
        (self.folder / "printer.py").write_text(PRINTER)
        (self.folder / "writer.py").write_text(WRITER)
        self._home = root / "home"

    def submit(self, *command: str) -> Run:
        """Submits a command."""
        from runyard import Experiment, ScriptRunConfig, Workspace

        config = ScriptRunConfig(source_directory=str(self.folder), command=list(command))
        return Experiment(Workspace(), "scale").submit(config)

    def pids(self, role: str) -> list[int]:
        """Processes of this home."""
        return processes_of(self._home)[role]

    def peaks(self, work: Callable[[], None]) -> str:
        """Runs `work`; the most memory that daemon and agent had meanwhile, as text."""
        most: Counter[str] = Counter()
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.2):
                for role in ("daemon", "agent"):
                    for pid in self.pids(role):
                        try:
                            most[role] = max(most[role], round(memory_mib(pid)))
                        except (OSError, LookupError):
                            continue  # it has just ended

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            work()
        finally:
            is_over.set()
            watching.join()
        return ", ".join(f"{role} at most {mib} MiB" for role, mib in most.items())


def told(
    what: str,
    begin: float,
    peaks: str,
    budget: str,
    *,
    is_whole: bool,
    floor_s: float | None = None,
) -> None:
    """One row: how long it took, memory, whole or not; `floor_s`: the job by itself."""
    took_s = time.perf_counter() - begin
    beside = "" if floor_s is None else f"the job itself {floor_s:.1f} s"
    ratio = None if floor_s is None else took_s / floor_s
    row(what, f"{took_s:.1f} s; {peaks}", beside, ratio, budget, is_whole)


def queue_over_a_crash(machine: Machine, count: int) -> None:
    """Short runs, and `kill -9` of the daemon while they are executed."""
    from runyard import Experiment, ScriptRunConfig, Workspace, wait_all

    marks = machine.folder.parent / "marks"
    command = ["sh", "-c", f"echo $RUNYARD_RUN_ID >> {marks}"]
    config = ScriptRunConfig(source_directory=str(machine.folder), command=command)
    begin = time.perf_counter()
    runs: list[Run] = []

    def work() -> None:
        runs.extend(Experiment(Workspace(), "queue").submit_all([config] * count))
        while not marks.exists() or marks.stat().st_size < count * 10:
            time.sleep(0.05)
        os.kill(machine.pids("daemon")[0], signal.SIGKILL)
        wait_all(runs)

    peaks = machine.peaks(work)
    executed = Counter(marks.read_text().split())
    is_whole = len(executed) == count and set(executed.values()) == {1}
    what = f"{count:,} queued runs, `kill -9` of the daemon in the middle"
    told(what, begin, peaks, "each executed once", is_whole=is_whole)


def clients_at_once(machine: Machine, count: int) -> None:
    """Clients that each submit a run and follow it to its end."""
    from runyard.follow import LogBytes

    texts: list[bytes] = []

    def client(number: int) -> None:
        events = machine.submit("echo", f"client {number}").follow()
        texts.append(b"".join(event.data for event in events if isinstance(event, LogBytes)))

    def work() -> None:
        clients = [threading.Thread(target=client, args=(number,)) for number in range(count)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()

    begin = time.perf_counter()
    peaks = machine.peaks(work)
    is_whole = sorted(texts) == sorted(b"client %d\n" % number for number in range(count))
    what = f"{count} clients at once, each submits a run and follows it"
    told(what, begin, peaks, "each has its log", is_whole=is_whole)


def printed(machine: Machine, size_bytes: int, form: str, *, slow_reads: int = 0) -> None:
    """A job that prints much, and a client that follows; a slow one reads a piece in a while."""
    from runyard.follow import LogBytes

    sums = [hashlib.blake2b(), hashlib.blake2b()]
    lengths = [0, 0]

    def work() -> None:
        run = machine.submit(sys.executable, "printer.py", str(size_bytes), form)
        reads = 0
        for event in run.follow():
            if isinstance(event, LogBytes):
                lengths[0] += len(event.data)
                sums[0].update(event.data)
                reads += 1
                if reads < slow_reads:
                    time.sleep(0.5)

    begin = time.perf_counter()
    peaks = machine.peaks(work)
    line = b"%016d" % 7 * 6 + b"abc\n" if form == "lines" else b"x" * 100
    for _ in range(size_bytes // (10_000 * len(line))):
        sums[1].update(line * 10_000)
        lengths[1] += 10_000 * len(line)
    is_whole = lengths[0] == lengths[1] and sums[0].digest() == sums[1].digest()
    reader = f", {slow_reads} reads of the client half a second apart" if slow_reads else ""
    what = f"a log of {size_bytes >> 20:,} MiB ({form}){reader}"
    told(what, begin, peaks, "every byte, in order", is_whole=is_whole)


def outputs(machine: Machine, count: int) -> None:
    """A job that writes many files into outputs/."""
    begin = time.perf_counter()
    names: list[str] = []
    job_s: list[float] = []

    def work() -> None:
        run = machine.submit(sys.executable, "writer.py", str(count))
        run.wait_for_completion()
        names.extend(run.get_file_names())
        spans = {phase.phase: phase.duration_s for phase in run.refresh().phases}
        job_s.append(spans["script"] or 0.0)

    peaks = machine.peaks(work)
    is_whole = sum(name.startswith("outputs/") for name in names) == count
    what = f"{count:,} output files of one run"
    told(what, begin, peaks, "all are there", is_whole=is_whole, floor_s=job_s[0])


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with temporary_home() as root:
        machine = Machine(root)
        machine.submit("true").wait_for_completion()
        queue_over_a_crash(machine, round(QUEUED * share))
        clients_at_once(machine, round(CLIENTS * share))
        printed(machine, round(LOG_BYTES * share), "lines")
        printed(machine, round(FLOOD_BYTES * share), "no newline")
        printed(machine, round(SLOW_BYTES * share), "lines", slow_reads=SLOW_READS)
        outputs(machine, round(OUTPUTS * share))


if __name__ == "__main__":
    main()
