"""A run in a container whose image is there, beside `docker run` of the same script by hand.

The engine and the image are those of the tests (Debian's docker.io, root); without them the line is
left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from machine import row, temporary_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.docker_engine import DockerEngine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PAIRS = 20
BUDGET = 1.3


@contextmanager
def engine() -> Iterator[DockerEngine]:
    """An engine with the images of the tests."""
    from support.docker_engine import start_engine

    folder = Path(tempfile.mkdtemp(prefix="ry-docker-", dir="/tmp"))
    yield from start_engine(folder)


def main() -> None:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        print("bench: a Docker engine of our own needs root and docker.io", file=sys.stderr)
        return
    with engine() as docker, temporary_home() as root:
        from support.docker_engine import PYTHON_IMAGE

        os.environ["DOCKER_HOST"] = docker.url
        from runyard import Environment, Experiment, ScriptRunConfig, Workspace

        experiment = Experiment(Workspace(), "docker")
        folder = root / "project"
        folder.mkdir()
        (folder / "train.py").write_text("pass\n")
        environment = Environment.from_docker_image("bench", PYTHON_IMAGE)
        environment.docker.arguments = ["--network=none"]
        config = ScriptRunConfig(
            source_directory=str(folder), script="train.py", environment=environment
        )

        def as_run() -> float:
            begin = time.perf_counter()
            experiment.submit(config).wait_for_completion()
            return (time.perf_counter() - begin) * 1e3

        by_hand_command = [
            *("docker", "run", "--rm", "--network=none", "--shm-size=1g"),
            *("-v", f"{folder}:/work", "-w", "/work", PYTHON_IMAGE, "python3", "train.py"),
        ]

        def by_hand() -> float:
            begin = time.perf_counter()
            subprocess.run(by_hand_command, check=True, capture_output=True)
            return (time.perf_counter() - begin) * 1e3

        for _ in range(3):
            as_run()
            by_hand()
        runs, hands = [], []
        for number in range(PAIRS):
            # By turns first, so that neither has the warmer machine.
            for work, kept in [(by_hand, hands), (as_run, runs)][:: -1 if number % 2 else 1]:
                kept.append(work())
        ours, theirs = statistics.median(runs), statistics.median(hands)
        row(
            "run of an empty script in a container, image there, SDK",
            f"p50 {ours:.0f} ms",
            f"`docker run --rm` by hand: {theirs:.0f} ms",
            ours / theirs,
            f"{BUDGET}",
            ours / theirs <= BUDGET,
        )


if __name__ == "__main__":
    main()
