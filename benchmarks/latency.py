"""Submit to first line over the SDK, interleaved with the same script by hand; hop by hop.

Prints the table rows of docs/benchmarks.md, then where the time of one run goes. All stamps are
of the one wall clock of this machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import RUNYARD, percentile, row, spread, temporary_home

ROUNDS = 40
PAUSE_S = 0.03
STARTS_OF = {
    "waiting": "run made",
    "snapshot": "agent lays out the snapshot",
    "environment": "agent looks at the environment",
    "start": "agent asks for the start",
    "script": "spawned",
    "first_output": "first output waited for",
    "outputs": "exit seen",
}
SCRIPT = "import time; s = time.time_ns()\nprint(s)\n"


def by_hand(folder: Path) -> tuple[float, float]:
    """Milliseconds to the first statement and to the end of `python script.py`."""
    begin = time.time_ns()
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, capture_output=True, check=True, text=True
    )
    return (int(done.stdout) - begin) / 1e6, (time.time_ns() - begin) / 1e6


def as_run(folder: Path) -> dict[str, float]:
    """Milliseconds from submit to each hop of a run."""
    from runyard import Experiment, ScriptRunConfig, Workspace
    from runyard.follow import LogBytes

    experiment = Experiment(Workspace(), "latency")
    config = ScriptRunConfig(source_directory=str(folder), script="train.py")
    begin = time.time_ns()
    run = experiment.submit(config)
    stamps = {"acknowledged": time.time_ns()}
    text = b""
    for event in run.follow():
        if isinstance(event, LogBytes) and event.data:
            stamps.setdefault("first line at client", time.time_ns())
            text += event.data
    stamps["final state at client"] = time.time_ns()
    stamps["first statement"] = int(text)
    record = run.refresh()
    for phase in record.phases:
        began = int(phase.start_time.timestamp() * 1e6) * 1000
        stamps[STARTS_OF[phase.phase]] = began
    assert record.end_time is not None
    stamps["final state durable"] = int(record.end_time.timestamp() * 1e6) * 1000
    return {hop: (stamp - begin) / 1e6 for hop, stamp in stamps.items()}


def main() -> None:
    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "train.py").write_text(SCRIPT)
        (folder / "empty.py").write_text("")
        for _ in range(3):
            by_hand(folder)
            as_run(folder)

        bare, runs = [], []
        for _ in range(ROUNDS):
            bare.append(by_hand(folder))
            time.sleep(PAUSE_S)
            runs.append(as_run(folder))
            time.sleep(PAUSE_S)
        first_bare = [first for first, _ in bare]
        first_line = [hops["first line at client"] for hops in runs]
        row(
            "submit to first line, warm, SDK",
            spread(first_line, "ms"),
            f"`python script.py` by hand: {spread(first_bare, 'ms')}",
            statistics.median(first_line) / statistics.median(first_bare),
            "p50 within 5 ms, p95 within 10 ms of by hand: "
            f"{statistics.median(first_line) - statistics.median(first_bare):+.1f} and "
            f"{percentile(first_line, 0.95) - percentile(first_bare, 0.95):+.1f} ms",
        )

        command, whole = [], []
        for _ in range(ROUNDS // 2):
            begin = time.perf_counter()
            subprocess.run(
                [RUNYARD, "run", "empty.py"], cwd=folder, capture_output=True, check=True
            )
            command.append((time.perf_counter() - begin) * 1e3)
            begin = time.perf_counter()
            subprocess.run([sys.executable, "empty.py"], cwd=folder, check=True)
            whole.append((time.perf_counter() - begin) * 1e3)
        row(
            "`runyard run` of an empty script, whole command",
            spread(command, "ms"),
            f"`python empty.py`: {spread(whole, 'ms')}",
            statistics.median(command) / statistics.median(whole),
            "under 150 ms",
        )

    print(
        "\nWhere the time of one run goes (median, from submit):\n\n"
        "| reached | ms | hop |\n| --- | --- | --- |"
    )
    before = 0.0
    for hop in sorted(runs[0], key=lambda name: statistics.median(h[name] for h in runs)):
        at = statistics.median(hops[hop] for hops in runs)
        print(f"| {hop} | {at:.2f} | {at - before:+.2f} |")
        before = at


if __name__ == "__main__":
    main()
