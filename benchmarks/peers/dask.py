"""Dask: a local cluster of two processes; its tasks start the same programs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

sys.path.append(os.path.dirname(__file__))
from probe import latencies, report, scratch

RUNS = 400
PYTHON_RUNS = 200


def run(*command: str) -> int:
    return subprocess.run(command, check=False).returncode


def main() -> None:
    # The folder of this file would shadow the package that it measures.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    from distributed import Client, LocalCluster

    with (
        scratch() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(folder)
        ) as cluster,
        Client(cluster) as client,
    ):

        def rate(runs: int, *command: str) -> float:
            begin = time.perf_counter()
            client.gather([client.submit(run, *command, pure=False) for _ in range(runs)])
            return runs / (time.perf_counter() - begin)

        (folder / "empty.py").write_text("")
        figures = latencies(
            folder, lambda marker: client.submit(run, "touch", marker, pure=False).result(), 40
        )
        figures["true_per_s"] = rate(RUNS, "true")
        figures["python_per_s"] = rate(
            PYTHON_RUNS, os.environ["BENCH_PYTHON"], str(folder / "empty.py")
        )
    report(figures)


if __name__ == "__main__":
    main()
