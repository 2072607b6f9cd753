"""One job's log to a following client: 400 MB of 100-byte lines, beside a pipe into a file.

CPU time of daemon and agent for each MB tells whose core is the limit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from machine import own_cpu_seconds, processes_of, row, temporary_home

LINE_BYTES = 100
LINES = 4_000_000
MEGABYTES = LINES * LINE_BYTES / 1e6
BUDGET_MB_S = 130
SCRIPT = f"""
import os
piece = (b"x" * {LINE_BYTES - 1} + b"\\n") * 1000
for _ in range({LINES // 1000}):
    rest = piece
    while rest:
        rest = rest[os.write(1, rest):]
"""


def floor(folder: Path) -> float:
    """MB a second through one pipe into a file, and from there into another process."""
    begin = time.perf_counter()
    command = f"{sys.executable} write.py | cat > ../log; cat ../log | cat > /dev/null"
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)
    return MEGABYTES / (time.perf_counter() - begin)


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace
    from runyard.follow import LogBytes

    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "write.py").write_text(SCRIPT)
        experiment = Experiment(Workspace(), "logpath")
        experiment.submit(
            ScriptRunConfig(source_directory=str(folder), command=["true"])
        ).wait_for_completion()
        bare = floor(folder)
        roles = processes_of(root / "home")
        before = {role: sum(map(own_cpu_seconds, pids)) for role, pids in roles.items()}
        begin = time.perf_counter()
        run = experiment.submit(ScriptRunConfig(source_directory=str(folder), script="write.py"))
        got = sum(len(event.data) for event in run.follow() if isinstance(event, LogBytes))
        took_s = time.perf_counter() - begin
        assert got == LINES * LINE_BYTES, f"{got} bytes came"
        used = {
            role: (sum(map(own_cpu_seconds, pids)) - before[role]) * 1e3 / MEGABYTES
            for role, pids in roles.items()
        }
        rate = MEGABYTES / took_s
        shares = ", ".join(f"{role} {ms:.2f} ms" for role, ms in used.items())
        row(
            f"log of one job to a following client, {MEGABYTES:.0f} MB",
            f"{rate:.0f} MB/s; CPU a MB: {shares}",
            f"two pipes and a file: {bare:.0f} MB/s",
            rate / bare,
            f"{BUDGET_MB_S} MB/s",
            rate >= BUDGET_MB_S,
        )


if __name__ == "__main__":
    main()
