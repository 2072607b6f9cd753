"""A second of empty Python scripts and of `true` through two slots, beside a bare loop and peers.

CPU time of daemon and agent a run is the stable figure; runs a second drift with the machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from machine import beside, own_cpu_seconds, peer, processes_of, row, temporary_home

if TYPE_CHECKING:
    from runyard import Experiment, Run, ScriptRunConfig

PYTHON_RUNS = 300
TRUE_RUNS = 1000
SINGLE_RUNS = 300
SLOTS = 2
SUBMITTERS = 4
PYTHON_BUDGET = 0.75
CPU_BUDGET_MS = 2.5


Submit = Callable[["Experiment", "ScriptRunConfig", int], "list[Run]"]


def bare_loop(folder: Path, runs: int, *command: str) -> float:
    """Runs a second when `xargs -P 2` starts the command again and again."""
    begin = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(SLOTS), "-I{}", *command],
        input="\n".join(str(n) for n in range(runs)),
        text=True,
        cwd=folder,
        check=True,
    )
    return runs / (time.perf_counter() - begin)


def at_once(experiment: Experiment, config: ScriptRunConfig, runs: int) -> list[Run]:
    """Submits all in one call."""
    return experiment.submit_all([config] * runs)


def one_by_one(experiment: Experiment, config: ScriptRunConfig, runs: int) -> list[Run]:
    """Submits each in a call of its own, several at a time."""
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return list(pool.map(lambda _: experiment.submit(config), range(runs)))


class Line:
    """Measures runs through the slots of a home."""

    def __init__(self, root: Path) -> None:
        from runyard import Experiment, Workspace

        self._home = root / "home"
        self._experiment = Experiment(Workspace(), "throughput")
        self.folder = root / "project"
        self.folder.mkdir()
        (self.folder / "empty.py").write_text("")

    def rate(self, submit: Submit, runs: int, *command: str) -> tuple[float, float, str]:
        """Runs a second, CPU milliseconds a run of our processes, and whose they are."""
        from runyard import ScriptRunConfig, wait_all

        config = ScriptRunConfig(source_directory=str(self.folder), command=list(command))
        # The slots are learnt to be quick, and warm.
        wait_all(self._experiment.submit_all([config] * 20))
        roles = processes_of(self._home)
        before = {role: sum(map(own_cpu_seconds, pids)) for role, pids in roles.items()}
        begin = time.perf_counter()
        wait_all(submit(self._experiment, config, runs))
        rate = runs / (time.perf_counter() - begin)
        spent = {
            role: (sum(map(own_cpu_seconds, pids)) - before[role]) * 1e3 / runs
            for role, pids in roles.items()
        }
        shares = ", ".join(f"{role} {ms:.2f}" for role, ms in spent.items())
        return rate, sum(spent.values()), f"CPU ms a run: {shares}"


def main() -> None:
    with temporary_home() as root:
        line = Line(root)
        python = (sys.executable, "empty.py")

        floor = bare_loop(line.folder, PYTHON_RUNS, *python)
        rate, cpu, shares = line.rate(at_once, PYTHON_RUNS, *python)
        floor = (floor + bare_loop(line.folder, PYTHON_RUNS, *python)) / 2
        others = {
            "HyperQueue": (peer("hyperqueue", "python_per_s"), "/s"),
            "Dask": (peer("dask", "python_per_s"), "/s"),
        }
        row(
            "empty Python runs, 2 slots",
            f"{rate:.0f}/s; {shares}",
            f"bare loop {floor:.0f}/s; {beside(**others)}",
            rate / floor,
            f"at least {PYTHON_BUDGET} of the loop",
            rate >= PYTHON_BUDGET * floor,
        )
        row(
            "CPU of daemon, agent and supervisors for an empty Python run",
            f"{cpu:.2f} ms",
            f"the script itself {SLOTS / floor * 1e3:.1f} ms",
            cpu * floor / SLOTS / 1e3,
            f"at most {CPU_BUDGET_MS} ms",
            cpu <= CPU_BUDGET_MS,
        )

        floor = bare_loop(line.folder, TRUE_RUNS, "true")
        rate, _, shares = line.rate(at_once, TRUE_RUNS, "true")
        hyperqueue = peer("hyperqueue", "true_per_s")
        others = {
            "HyperQueue": (hyperqueue, "/s"),
            "Dask": (peer("dask", "true_per_s"), "/s"),
            "Slurm": (peer("slurm", "true_per_s"), "/s"),
        }
        row(
            "`true`, 2 slots, one call",
            f"{rate:.0f}/s; {shares}",
            f"bare loop {floor:.0f}/s; {beside(**others)}",
            rate / hyperqueue if hyperqueue else rate / floor,
            "ahead of HyperQueue",
            None if hyperqueue is None else rate > hyperqueue,
        )
        rate, _, shares = line.rate(one_by_one, SINGLE_RUNS, "true")
        row(
            f"`true`, 2 slots, a call for each run from {SUBMITTERS} threads",
            f"{rate:.0f}/s; {shares}",
            f"bare loop {floor:.0f}/s",
            rate / floor,
            "",
        )


if __name__ == "__main__":
    main()
