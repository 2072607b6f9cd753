"""A tree of 20,000 files: first snapshot, then a resubmit with one change, beside git and walks."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from machine import row, temporary_home

FILES = 20_000
FOLDERS = 400
ROUNDS = 7
# As long as a usual Python .gitignore: matching is part of the cost.
PATTERNS = [
    f"*.{stem}{n}" for n in range(11) for stem in ("pyc", "log", "tmp", "swp", "bak", "o", "so")
]


def make_tree(folder: Path) -> None:
    """20,000 files, about 227 MB, sizes mixed, seeded."""
    noise = random.Random(1)
    for number in range(FILES):
        target = folder / f"d{number % 20}" / f"s{number % FOLDERS}" / f"f{number}.dat"
        target.parent.mkdir(parents=True, exist_ok=True)
        size = int(noise.lognormvariate(8.4, 1.35))
        target.write_bytes(noise.randbytes(min(size, 4_000_000)))
    (folder / ".gitignore").write_text("\n".join(PATTERNS) + "\n")
    (folder / "train.py").write_text("")


def list_only(folder: Path, stat: bool) -> None:
    """Walks the tree with os.scandir, with or without a stat of each entry."""
    todo = [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif stat:
                    entry.stat(follow_symlinks=False)


def timed(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median milliseconds of an action."""
    figures = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        figures.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(figures)


def git(folder: Path, *args: str) -> None:
    """Runs git in the tree."""
    subprocess.run(["git", *args], cwd=folder, capture_output=True, check=True)


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        folder = root / "tree"
        make_tree(folder)
        experiment = Experiment(Workspace(), "resubmit")
        warm = root / "warm"
        warm.mkdir()
        (warm / "x.py").write_text("")
        experiment.submit(
            ScriptRunConfig(source_directory=str(warm), script="x.py")
        ).wait_for_completion()
        config = ScriptRunConfig(source_directory=str(folder), script="train.py")

        submitted = []
        first = timed(lambda: submitted.append(experiment.submit(config)), rounds=1)
        git(folder, "init", "-q")
        added = timed(lambda: git(folder, "add", "-A"), rounds=1)
        row(
            "first snapshot of 20,000 files, local",
            f"{first:.0f} ms",
            f"`git add`: {added:.0f} ms",
            first / added,
            "faster than `git add`",
        )

        # The agent lays the tree out for each run: let it finish, or it shares the cores.
        submitted.pop().wait_for_completion()
        changed = folder / "d7" / "s7" / "f7.dat"
        figures = []
        for number in range(ROUNDS):
            changed.write_bytes(b"%d" % number * 500)
            figures.append(timed(lambda: submitted.append(experiment.submit(config)), rounds=1))
            submitted.pop().wait_for_completion()
        git(folder, "status", "--porcelain")
        status = timed(lambda: git(folder, "status", "--porcelain"))
        listing, walking = (
            timed(lambda stat=stat: list_only(folder, stat)) for stat in (False, True)
        )
        again = statistics.median(figures)
        row(
            "resubmit of it, one file changed",
            f"{again:.0f} ms",
            f"`git status` {status:.0f} ms; listing {listing:.0f} ms; "
            f"listing + stat in Python {walking:.0f} ms",
            again / status,
            "within 3 times `git status`",
        )


if __name__ == "__main__":
    main()
