"""What starting costs: `import runyard`, `runyard --help`, and a whole `runyard run empty.py`.

Each beside the bare interpreter, in turns; wall clock, and CPU of the command's own process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import RUNYARD, beside, peer, row, spread, temporary_home

ROUNDS = 25
WARM_UP = 3
PAUSE_S = 0.02


@dataclass(slots=True)
class Case:
    """A command and what its starts took, in milliseconds."""

    command: list[str]
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def start(self, folder: Path) -> None:
        """Runs it once and keeps what it took."""
        # The run takes the interpreter that it stands beside, whatever is on PATH.
        environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
        begin = time.perf_counter()
        process = subprocess.Popen(
            self.command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        end = time.perf_counter()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"startup: {self.command} ended with {process.returncode}")
        self.wall_ms.append((end - begin) * 1e3)
        self.cpu_ms.append((usage.ru_utime + usage.ru_stime) * 1e3)

    def text(self) -> str:
        """Wall clock and CPU for the table."""
        return f"{spread(self.wall_ms, 'ms')}; CPU {statistics.median(self.cpu_ms):.0f} ms"

    @property
    def p50_ms(self) -> float:
        """The median of the wall clock."""
        return statistics.median(self.wall_ms)


def main() -> None:
    bare = Case([sys.executable, "-c", "pass"])
    by_hand = Case([sys.executable, "empty.py"])
    imported = Case([sys.executable, "-c", "import runyard"])
    helped = Case([RUNYARD, "--help"])
    run = Case([RUNYARD, "run", "empty.py"])
    cases = [bare, by_hand, imported, helped, run]
    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "empty.py").touch()
        for _ in range(WARM_UP + ROUNDS):
            for case in cases:
                case.start(folder)
                time.sleep(PAUSE_S)
    for case in cases:
        del case.wall_ms[:WARM_UP], case.cpu_ms[:WARM_UP]

    for what, case, floor, budget_ms in (
        ("`import runyard`", imported, bare, 40),
        ("`runyard --help`", helped, bare, 100),
        ("`runyard run` of an empty script, whole command", run, by_hand, 150),
    ):
        name = "`python -c pass`" if floor is bare else "`python empty.py`"
        others = beside(Ray_job_submit=(peer("ray", "command_ms"), "ms")) if case is run else ""
        row(
            what,
            case.text(),
            f"{name}: {floor.text()}" + (f"; {others}" if others else ""),
            case.p50_ms / floor.p50_ms,
            f"p50 under {budget_ms} ms",
            case.p50_ms < budget_ms,
        )


if __name__ == "__main__":
    main()
