"""A tree of 20,000 files: first snapshot, then a resubmit with one change, beside what others do.

Peers: git, rsync, restic and borg on the same tree, in the same run.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from machine import beside, row, temporary_home

FILES = 20_000
FOLDERS = 400
ROUNDS = 7
PEER_ROUNDS = 3
# As long as a usual Python .gitignore: matching is part of the cost.
PATTERNS = [
    f"*.{stem}{n}" for n in range(11) for stem in ("pyc", "log", "tmp", "swp", "bak", "o", "so")
]
FIRST = "first"
AGAIN = "again"


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


class Tree:
    """The tree, and the one file of it that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changes = 0

    def change(self) -> None:
        """Gives one file other content."""
        self._changes += 1
        (self.folder / "d7" / "s7" / "f7.dat").write_bytes(b"%d" % self._changes * 500)

    def after_change(self, action: Callable[[], object], rounds: int) -> float:
        """Median milliseconds of an action, each time after one more change."""
        figures = []
        for _ in range(rounds):
            self.change()
            figures.append(timed(action, rounds=1))
        return statistics.median(figures)


def call(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a peer's command."""
    subprocess.run(
        command, cwd=cwd, capture_output=True, check=True, env={**os.environ, **(env or {})}
    )


def peers(tree: Tree, scratch: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of the first copy and of one after a change, for each peer that is here."""
    given = {}
    secret = {"RESTIC_PASSWORD": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    names = iter(range(1000))
    commands = {
        "rsync": ((), lambda: ("rsync", "-a", f"{tree.folder}/", f"{scratch}/rsync/")),
        "restic": (
            ("restic", "init", "-q", "-r", f"{scratch}/restic"),
            lambda: ("restic", "backup", "-q", "-r", f"{scratch}/restic", str(tree.folder)),
        ),
        "borg": (
            ("borg", "init", "-e", "none", f"{scratch}/borg"),
            lambda: ("borg", "create", f"{scratch}/borg::{next(names)}", str(tree.folder)),
        ),
    }
    for name, (prepare, command) in commands.items():
        if shutil.which(name) is None:
            continue
        if prepare:
            call(*prepare, cwd=scratch, env=secret)

        def copy(command: Callable[[], tuple[str, ...]] = command) -> None:
            call(*command(), cwd=scratch, env=secret)

        first = timed(copy, rounds=1)
        given[name] = {FIRST: first, AGAIN: tree.after_change(copy, PEER_ROUNDS)}
    return given


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        tree = Tree(root / "tree")
        make_tree(tree.folder)
        experiment = Experiment(Workspace(), "resubmit")
        warm = root / "warm"
        warm.mkdir()
        (warm / "x.py").write_text("")
        experiment.submit(
            ScriptRunConfig(source_directory=str(warm), script="x.py")
        ).wait_for_completion()
        config = ScriptRunConfig(source_directory=str(tree.folder), script="train.py")

        submitted = []
        first = timed(lambda: submitted.append(experiment.submit(config)), rounds=1)
        # The agent lays the tree out for each run: let it finish, or it shares the cores.
        submitted.pop().wait_for_completion()
        figures = []
        for _ in range(ROUNDS):
            tree.change()
            figures.append(timed(lambda: submitted.append(experiment.submit(config)), rounds=1))
            submitted.pop().wait_for_completion()
        again = statistics.median(figures)

        call("git", "init", "-q", cwd=tree.folder)
        added = timed(lambda: call("git", "add", "-A", cwd=tree.folder), rounds=1)
        call("git", "status", "--porcelain", cwd=tree.folder)
        status = timed(lambda: call("git", "status", "--porcelain", cwd=tree.folder))
        listing, walking = (
            timed(lambda stat=stat: list_only(tree.folder, stat)) for stat in (False, True)
        )
        others = peers(tree, root)
        bounds = [added, *([others["restic"][FIRST]] if "restic" in others else [])]
        row(
            "first snapshot of 20,000 files, local",
            f"{first:.0f} ms",
            beside(git_add=(added, "ms"), **{n: (g[FIRST], "ms") for n, g in others.items()}),
            first / added,
            "faster than `git add` and restic",
            first < min(bounds),
        )
        row(
            "resubmit of it, one file changed",
            f"{again:.0f} ms",
            beside(
                git_status=(status, "ms"),
                **{n: (g[AGAIN], "ms") for n, g in others.items()},
                listing=(listing, "ms"),
                listing_and_stat_in_Python=(walking, "ms"),
            ),
            again / status,
            "within 3 times `git status`; faster than rsync, restic, borg",
            again < 3 * status and all(again < given[AGAIN] for given in others.values()),
        )


if __name__ == "__main__":
    main()
