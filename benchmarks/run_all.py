"""Runs every benchmark in a process of its own and prints one table."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from machine import load_average

BENCHMARKS = ("latency.py", "throughput.py", "resubmit.py")


def main() -> int:
    quiet = "quiet" if load_average() < 0.5 else "NOT quiet: figures are noisy"
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"load {load_average():.2f} ({quiet})\n"
    )
    print(
        "| what | figure | peer or floor | ratio | budget |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    here = Path(__file__).parent
    return max(
        subprocess.run([sys.executable, str(here / name)], check=False).returncode
        for name in BENCHMARKS
    )


if __name__ == "__main__":
    sys.exit(main())
