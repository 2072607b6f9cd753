"""Runs the peers, then every benchmark in a process of its own, and prints one table.

`run_all.py [--no-peers] [NAME …]`: only the benchmarks named; `--scale`: those of large amounts,
without peers. Peers come from `.bench/`, where `peers/install.sh` puts them; one that is not there
is left out of the table.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import PEER_FIGURES, load_average, wait_until_quiet

BENCHMARKS = (
    "latency",
    "startup",
    "throughput",
    "resubmit",
    "wire",
    "workdir",
    "logpath",
    "metrics",
    "idle",
    "agents",
    "backlog",
    "environments",
    "docker_run",
)
SCALE = ("scale", "bigdb")
PEERS = ("hyperqueue", "dask", "ray", "mlflow", "slurm")
PEER_LIMIT_S = 120
QUIET_WAIT_S = 30
HERE = Path(__file__).parent
HEADER = "| what | figure | peer or floor | ratio | budget | met |\n" + "| --- " * 6 + "|"


def peer_figures() -> dict[str, dict[str, float]]:
    """What each peer that is installed measures of itself; the others are named and left out."""
    given = {}
    environment = {**os.environ, "BENCH_PYTHON": sys.executable}
    for name in PEERS:
        python = HERE.parent / ".bench" / name / "bin" / "python"
        # Slurm comes from Debian: its program needs no environment of its own.
        command = [
            str(python) if python.exists() else "python3",
            str(HERE / "peers" / f"{name}.py"),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                timeout=PEER_LIMIT_S,
                env=environment,
            )
            given[name] = json.loads(done.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            print(f"bench: {name} gave no figures: {error}", file=sys.stderr, flush=True)
    return given


def main(arguments: list[str]) -> int:
    is_scale = "--scale" in arguments
    every = SCALE if is_scale else BENCHMARKS
    wanted = [name for name in arguments if not name.startswith("--")] or list(every)
    if unknown := set(wanted) - {*BENCHMARKS, *SCALE}:
        names = ", ".join((*BENCHMARKS, *SCALE))
        print(f"bench: no benchmark {', '.join(sorted(unknown))}; there are {names}")
        return 2
    begin = time.monotonic()
    is_quiet = wait_until_quiet(QUIET_WAIT_S)
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d', time.gmtime())}, "
        f"load {load_average():.2f} ({'quiet' if is_quiet else 'NOT quiet: figures are noisy'})\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        if "--no-peers" not in arguments and not is_scale:
            json.dump(peer_figures(), file)
            file.flush()
            os.environ[PEER_FIGURES] = file.name
        print(HEADER, flush=True)
        worst = 0
        for name in wanted:
            wait_until_quiet(QUIET_WAIT_S)
            done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False)
            worst = max(worst, done.returncode)
    print(f"\n{time.monotonic() - begin:.0f} s in all", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
