"""MLflow: its server with the SQLite store, metrics over HTTP."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(os.path.dirname(__file__))
from probe import descendants, end_all, pss_mib, report, scratch

ADDRESS = ("127.0.0.1", 25000)
BATCH = 1000


def main() -> None:
    # The folder of this file would shadow the package that it measures.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    with scratch() as folder:
        server = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("mlflow")),
                "server",
                "--host=127.0.0.1",
                f"--port={ADDRESS[1]}",
                "--workers=1",
                f"--backend-store-uri=sqlite:///{folder}/db",
                f"--artifacts-destination={folder}/artifacts",
            ],
            stdout=sys.stderr,
            stderr=sys.stderr,
            start_new_session=True,
        )
        try:
            wait_until_up(60)
            figures = {"idle_mib": pss_mib(descendants(server.pid))}
            figures |= metrics()
        finally:
            end_all(descendants(server.pid))
            server.wait()
    report(figures)


def wait_until_up(limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(ADDRESS, timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def metrics() -> dict[str, float]:
    """One metric a call, and points a second in batches of 1,000."""
    import mlflow
    from mlflow.entities import Metric

    mlflow.set_tracking_uri(f"http://{ADDRESS[0]}:{ADDRESS[1]}")
    client = mlflow.MlflowClient()
    run = client.create_run("0").info.run_id
    calls = []
    for step in range(100):
        begin = time.perf_counter()
        client.log_metric(run, "loss", 0.5, step=step)
        calls.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    batches = 10
    for batch in range(batches):
        points = [Metric("batch", 0.5, 0, batch * BATCH + n) for n in range(BATCH)]
        client.log_batch(run, metrics=points)
    return {
        "call_us": statistics.median(calls) * 1e6,
        "points_per_s": batches * BATCH / (time.perf_counter() - begin),
    }


if __name__ == "__main__":
    main()
