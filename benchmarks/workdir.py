"""The working folder of a run from a stored snapshot of 20,000 files, beside `cp -a` and `cp -al`.

The figure is the run's own "snapshot" span. The first runs lay the folder out; for those that come
later it was built ahead while the run before executed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from machine import row, temporary_home

FILES = 20_000
FOLDER_FILES = 200
FILE_BYTES = 11_400
ROUNDS = 2
BUILD_LIMIT_S = 120.0
BUDGET = 1.2


def make_tree(folder: Path) -> None:
    """Files of 228 MB in all, each with content of its own."""
    for number in range(FILES):
        file = folder / f"d{number // FOLDER_FILES:03d}" / f"f{number:05d}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(64) + bytes(FILE_BYTES - 64))


def copied(source: Path, target: Path, *options: str) -> float:
    """Seconds of a `cp` of the tree."""
    begin = time.perf_counter()
    subprocess.run(["cp", *options, source, target], check=True)
    return time.perf_counter() - begin


def built_ahead(runs: Path) -> set[Path]:
    """Folders that are ready for a run that is to come."""
    return set(runs.glob(".free.*/work.index"))


def wait_for_another(runs: Path, known: set[Path]) -> None:
    """Returns when a folder was built ahead that is none of these."""
    end = time.monotonic() + BUILD_LIMIT_S
    while not built_ahead(runs) - known:
        if time.monotonic() > end:
            raise TimeoutError("no working folder was built ahead")
        time.sleep(0.2)
    time.sleep(0.2)


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        project = root / "project"
        make_tree(project)
        experiment = Experiment(Workspace(), "workdir")
        config = ScriptRunConfig(source_directory=str(project), command=["true"])

        def snapshot_span() -> float:
            run = experiment.submit(config)
            run.wait_for_completion()
            spans = {phase.phase: phase.duration_s for phase in run.refresh().phases}
            return float(spans["snapshot"] or 0.0)

        laid, ahead, copies, links = [], [], [], []
        snapshot_span()  # the store and the page cache are warm from here on
        runs = root / "home/agent/runs"
        for number in range(ROUNDS):
            # A snapshot that never came before; that it comes again has its next folder built.
            (project / "round.txt").write_text(str(number))
            known = built_ahead(runs)
            copies.append(copied(project, root / f"copy{number}", "-a"))
            laid.append(snapshot_span())
            laid.append(snapshot_span())
            wait_for_another(runs, known)
            links.append(copied(project, root / f"links{number}", "-al"))
            known = built_ahead(runs)
            ahead.append(snapshot_span())
            wait_for_another(runs, known)  # it is built again: not beside the next round

        for what, spans, peer, figures in (
            ("laid out for the run", laid, "cp -a", copies),
            ("built ahead", ahead, "cp -al", links),
        ):
            ratio = statistics.median(spans) / statistics.median(figures)
            row(
                f"working folder of {FILES:,} files, {what}",
                f"{statistics.median(spans) * 1e3:.0f} ms",
                f"`{peer}`: {statistics.median(figures) * 1e3:.0f} ms",
                ratio,
                f"under {BUDGET} times `{peer}`",
                ratio < BUDGET,
            )


if __name__ == "__main__":
    main()
