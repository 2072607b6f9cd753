"""One metric call in a job, and a million points from the job's call to the daemon's store."""

from __future__ import annotations

import time

from machine import beside, peer, row, temporary_home

ROUNDS = 100
CALLS = 1000
POINTS = 1_000_000
POINTS_A_CALL = 250
CALL_BUDGET_US = 5.0
POINTS_BUDGET = 300_000
CALLS_SCRIPT = f"""
import statistics, time
from runyard import Run
run = Run.get_context()
took = []
for _ in range({ROUNDS}):
    begin = time.perf_counter()
    for step in range({CALLS}):
        run.log("loss", 0.25)
    took.append(time.perf_counter() - begin)
print(statistics.median(took) / {CALLS} * 1e6)
"""
POINTS_SCRIPT = f"""
import time
from runyard import Run
run = Run.get_context()
begin = time.time()
for _ in range({POINTS // POINTS_A_CALL}):
    run.log_list("loss", [0.25] * {POINTS_A_CALL})
print(time.time() - begin, time.time())
"""


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace

    with temporary_home() as root:
        folder = root / "project"
        folder.mkdir()
        (folder / "calls.py").write_text(CALLS_SCRIPT)
        (folder / "points.py").write_text(POINTS_SCRIPT)
        experiment = Experiment(Workspace(), "metrics")

        def output(script: str) -> tuple[list[float], float]:
            config = ScriptRunConfig(source_directory=str(folder), script=script)
            run = experiment.submit(config)
            run.wait_for_completion()
            ended = time.time()
            return [float(word) for word in run.get_logs().split()], ended

        (call_us,), _ = output("calls.py")
        row(
            "one metric call in the job",
            f"{call_us:.1f} µs",
            beside(MLflow_over_HTTP=(peer("mlflow", "call_us"), "µs")),
            None if not (mlflow := peer("mlflow", "call_us")) else call_us / mlflow,
            f"under {CALL_BUDGET_US:.0f} µs",
            call_us < CALL_BUDGET_US,
        )
        (logging_s, last), ended = output("points.py")
        # Shipping goes on while the job logs: from its first call until all is durable.
        rate = POINTS / (logging_s + ended - last)
        row(
            "metric points stored, one run, a million",
            f"{rate:,.0f}/s",
            f"the job's own loop {POINTS / logging_s:,.0f}/s; "
            + beside(MLflow_in_batches=(peer("mlflow", "points_per_s"), "/s")),
            rate / (POINTS / logging_s),
            f"{POINTS_BUDGET:,}/s",
            rate > POINTS_BUDGET,
        )


if __name__ == "__main__":
    main()
