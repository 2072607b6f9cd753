"""HyperQueue: server and worker of two cores in this process (its wheel has no other way)."""

from __future__ import annotations

import contextlib
import os
import sys
import time

sys.path.append(os.path.dirname(__file__))
from probe import latencies, report, scratch

RUNS = 600
PYTHON_RUNS = 300


def main() -> None:
    # The folder of this file would shadow the package that it measures.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with scratch() as folder, LocalCluster(worker_config=WorkerConfig(cores=2)) as cluster:
        client = cluster.client()

        def submit(*commands: list[str]) -> object:
            job = Job()
            for command in commands:
                job.program(command, stdout=None, stderr=None)
            return client.submit(job)

        def rate(command: list[str], runs: int) -> float:
            # Its own wait polls once a second; the last task marks the end.
            done = folder / f"done{time.monotonic_ns()}"
            job = Job()
            tasks = [job.program(command, stdout=None, stderr=None) for _ in range(runs)]
            job.program(["touch", str(done)], stdout=None, stderr=None, deps=tasks)
            begin = time.perf_counter()
            client.submit(job)
            while not done.exists():
                time.sleep(0.001)
            return runs / (time.perf_counter() - begin)

        (folder / "empty.py").write_text("")
        with contextlib.redirect_stdout(sys.stderr):
            figures = latencies(folder, lambda marker: submit(["touch", marker]), 40)
            figures["true_per_s"] = rate(["true"], RUNS)
            script = [os.environ["BENCH_PYTHON"], str(folder / "empty.py")]
            figures["python_per_s"] = rate(script, PYTHON_RUNS)
    report(figures)


if __name__ == "__main__":
    main()
