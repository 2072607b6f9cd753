"""Mixed work for a time (`--minutes`, 30 by default): nothing may grow, nothing may be lost.

Short and chatty runs, failures, cancels, time limits, metrics and outputs, followers that come and
go, a reader that is slow, listings. Every ten seconds memory, file descriptors and threads of
daemon and agent are read. Exits with 1 where one of them grew or a run did not end as it must.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from machine import memory_mib, processes_of, temporary_home

if TYPE_CHECKING:
    from runyard import Experiment, Run

SAMPLE_S = 10.0
WORKERS = 4
LINES = 2000
POINTS = 500
SLOW_READ_S = 0.2
FOLLOWED_EVENTS = 20
GROWTH_MIB = 6.0
GROWTH_SHARE = 0.10
GROWTH_COUNT = 8
"""File descriptors or threads that may come and go with the work of the moment."""
LIMIT_S = 120.0

CHATTY = f"""
import sys
for n in range({LINES}):
    print(n)
    print(-n, file=sys.stderr)
"""
TRAINING = f"""
import os
from runyard import Run
run = Run.get_context()
for step in range({POINTS}):
    run.log("loss", 1 / (step + 1))
os.makedirs("outputs", exist_ok=True)
with open("outputs/model.bin", "wb") as file:
    file.write(os.urandom(200_000))
"""


@dataclass(slots=True)
class Sample:
    """What one process used at one time."""

    memory_mib: float
    fds: int
    threads: int


@dataclass
class Soak:
    """The work, what it found, and the samples."""

    experiment: Experiment
    folder: Path
    deadline: float
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def submit(self, *command: str, max_duration_s: int = 0) -> Run:
        """Submits a command of the project folder."""
        from runyard import ScriptRunConfig
        from runyard.runconfig import RunConfiguration

        configuration = RunConfiguration()
        if max_duration_s:
            configuration.max_run_duration_seconds = max_duration_s
        return self.experiment.submit(
            ScriptRunConfig(
                source_directory=str(self.folder), command=list(command), run_config=configuration
            )
        )

    def expect(self, run: Run, status: str) -> bool:
        """Waits for the end of a run and notes one that is not as it must be."""
        run.wait_for_completion(raise_on_error=False)
        if run.status != status:
            self.faults.append(f"{run.id} is {run.status}, not {status}")
        return run.status == status

    def short(self) -> None:
        """A run that does nothing."""
        self.expect(self.submit("true"), "Completed")

    def chatty(self) -> None:
        """A run with two streams of lines, all of them kept."""
        run = self.submit(sys.executable, "chatty.py")
        if not self.expect(run, "Completed"):
            return
        for stream, sign in (("stdout", 1), ("stderr", -1)):
            if run.get_logs(stream) != "".join(f"{sign * n}\n" for n in range(LINES)):
                self.faults.append(f"{run.id} has lost, doubled or mixed up lines of {stream}")

    def training(self) -> None:
        """A run with metrics and an output file."""
        run = self.submit(sys.executable, "training.py")
        if not self.expect(run, "Completed"):
            return
        if len(run.get_metrics()["loss"]) != POINTS:
            self.faults.append(f"{run.id} has lost metric points")
        if "outputs/model.bin" not in run.get_file_names():
            self.faults.append(f"{run.id} has lost its output")

    def failing(self) -> None:
        """A run that ends with an exit code of its own."""
        self.expect(self.submit("sh", "-c", "exit 3"), "Failed")

    def cancelled(self) -> None:
        """A run that is cancelled while it runs."""
        run = self.submit("sleep", "60")
        run.cancel()
        self.expect(run, "Canceled")

    def overdue(self) -> None:
        """A run that exceeds its time limit."""
        self.expect(self.submit("sleep", "60", max_duration_s=1), "Failed")

    def left(self) -> None:
        """A follower that leaves in the middle, and one that reads slowly."""
        run = self.submit(sys.executable, "chatty.py")
        for number, _ in enumerate(run.follow()):
            if number == FOLLOWED_EVENTS:
                break
            time.sleep(SLOW_READ_S if number % 5 == 0 else 0)
        self.expect(run, "Completed")

    def listings(self) -> None:
        """The questions that a portal asks."""
        for number, run in enumerate(self.experiment.get_runs()):
            if number == 50:
                run.refresh()
                run.get_details()
                break

    def work(self, seed: int) -> None:
        """Does one thing after the other until the time is over."""
        noise = random.Random(seed)
        kinds: list[Callable[[], None]] = [self.short] * 10 + [self.chatty] * 3
        kinds += [self.training] * 3 + [self.failing] * 2 + [self.listings] * 4
        kinds += [self.cancelled, self.overdue, self.left]
        while time.monotonic() < self.deadline:
            kind = noise.choice(kinds)
            try:
                kind()
            except Exception as error:  # else the worker ends here, and nothing tells
                self.faults.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            self.done[kind.__name__] += 1

    def watch(self, home: Path) -> None:
        """Reads what daemon and agent use, until the time is over."""
        while time.monotonic() < self.deadline:
            time.sleep(SAMPLE_S)
            for role, pids in processes_of(home).items():
                if role == "supervisor":
                    continue
                try:
                    (pid,) = pids
                    self.samples.setdefault(role, []).append(sample(pid))
                except (ValueError, OSError) as error:
                    self.faults.append(f"{role}: processes {pids}, {error}")


def sample(pid: int) -> Sample:
    """What a process uses now."""
    process = Path(f"/proc/{pid}")
    return Sample(
        memory_mib(pid),
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
    )


def judge(role: str, samples: list[Sample]) -> bool:
    """Prints a process's row; False where something grew from the second sixth to the last."""
    sixth = max(1, len(samples) // 6)
    is_flat = True
    cells = []
    for name, unit in (("memory_mib", " MiB"), ("fds", ""), ("threads", "")):
        values = [getattr(one, name) for one in samples]
        early = statistics.median(values[sixth : 2 * sixth] or values)
        late = statistics.median(values[-sixth:])
        allowed = max(GROWTH_MIB, GROWTH_SHARE * early) if name == "memory_mib" else GROWTH_COUNT
        is_flat = is_flat and late - early <= allowed
        cells.append(f"{early:.0f} → {late:.0f}{unit} (most {max(values):.0f})")
    print(f"| {role} | {' | '.join(cells)} | {'yes' if is_flat else '**no**'} |", flush=True)
    return is_flat


def main() -> int:
    from runyard import Experiment, Workspace

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "chatty.py").write_text(CHATTY)
        (folder / "training.py").write_text(TRAINING)
        deadline = time.monotonic() + options.minutes * 60
        soak = Soak(Experiment(Workspace(), "soak"), folder, deadline)
        soak.short()
        threads = [
            threading.Thread(target=soak.work, args=(options.seed + n,), daemon=True)
            for n in range(WORKERS)
        ]
        threads.append(threading.Thread(target=soak.watch, args=(root / "home",), daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()) + LIMIT_S)
            if thread.is_alive():
                soak.faults.append(f"{thread.name} hangs")
        counts = ", ".join(f"{count} {name}" for name, count in sorted(soak.done.items()))
        print(f"{options.minutes:.0f} minutes, seed {options.seed}: {counts}\n")
        print("| process | memory | file descriptors | threads | flat |\n" + "| --- " * 5 + "|")
        flat = [judge(role, samples) for role, samples in sorted(soak.samples.items())]
        for fault in soak.faults:
            print(f"fault: {fault}")
        print(f"{len(soak.faults)} faults in {soak.done.total()} pieces of work", flush=True)
        return 0 if all(flat) and not soak.faults else 1


if __name__ == "__main__":
    sys.exit(main())
