"""Runs a second of empty Python scripts and of `true` through two slots, beside a bare loop.

CPU time of daemon and agent a run is the stable figure; runs a second drift with the machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import cpu_seconds, processes_of, row, temporary_home

RUNS = 400
SLOTS = 2
SUBMITTERS = 4


def bare_loop(folder: Path, *command: str) -> float:
    """Runs a second when `xargs -P 2` starts the command again and again."""
    begin = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(SLOTS), "-I{}", *command],
        input="\n".join(str(n) for n in range(RUNS)),
        text=True,
        cwd=folder,
        check=True,
    )
    return RUNS / (time.perf_counter() - begin)


def as_runs(
    folder: Path, home: Path, *command: str, is_batch: bool = True
) -> tuple[float, dict[str, float]]:
    """Runs a second through runyard, and CPU milliseconds a run by role.

    Args:
        is_batch: submit all with one call and wait with one stream; else one call a submit, from
            several threads, and one stream a run.
    """
    from runyard import Experiment, ScriptRunConfig, Workspace, wait_all

    experiment = Experiment(Workspace(), "throughput")
    config = ScriptRunConfig(source_directory=str(folder), command=list(command))
    experiment.submit(config).wait_for_completion()
    roles = processes_of(home)
    before = {role: sum(map(cpu_seconds, pids)) for role, pids in roles.items()}
    begin = time.perf_counter()
    if is_batch:
        wait_all(experiment.submit_all([config] * RUNS))
    else:
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            runs = list(pool.map(lambda _: experiment.submit(config), range(RUNS)))
        for run in runs:
            run.wait_for_completion()
    rate = RUNS / (time.perf_counter() - begin)
    # Supervisors reap the jobs, so their own share can't be told from the jobs'.
    return rate, {
        role: (sum(map(cpu_seconds, pids)) - before[role]) * 1e3 / RUNS
        for role, pids in roles.items()
        if role != "supervisor"
    }


def main() -> None:
    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "empty.py").write_text("")
        for what, command, budget, is_batch in (
            (
                "empty Python runs, 2 slots",
                (sys.executable, "empty.py"),
                "at least 0.75 of the loop",
                True,
            ),
            ("`true`, 2 slots", ("true",), "ahead of HyperQueue (400-525/s)", True),
            ("`true`, 2 slots, one call a submit", ("true",), "none", False),
        ):
            floor = bare_loop(folder, *command)
            rate, cpu = as_runs(folder, root / "home", *command, is_batch=is_batch)
            floor = (floor + bare_loop(folder, *command)) / 2
            shares = ", ".join(f"{role} {ms:.2f} ms" for role, ms in cpu.items())
            row(
                what,
                f"{rate:.0f}/s; CPU a run: {shares}",
                f"bare loop {floor:.0f}/s",
                rate / floor,
                budget,
            )


if __name__ == "__main__":
    main()
