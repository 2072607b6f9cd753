"""The data directory of the first landing, served by this version: all runs, logs, files."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from runyardpb.v1 import logs_pb2, runs_pb2
from support import first_landing
from support.served import WORKSPACE, Served, drained, served


def name_of(run_id: str) -> str:
    return f"{WORKSPACE}/experiments/-/runs/{run_id}"


async def log_of(daemon: Served, run_id: str, source: int) -> bytes:
    request = logs_pb2.ReadLogRequest(name=name_of(run_id), source=source)
    return b"".join(answer.chunk.data for answer in await drained(daemon.logs.ReadLog(request)))


def test_all_that_the_first_landing_kept_is_served() -> None:
    async def main(home: Path) -> None:
        first_landing.lay_out(home)
        async with served(home) as daemon:
            listed = await daemon.runs.ListRuns(
                runs_pb2.ListRunsRequest(parent=f"{WORKSPACE}/experiments/-")
            )
            file = await drained(
                daemon.runs.ReadRunFile(
                    runs_pb2.ReadRunFileRequest(
                        name=name_of(first_landing.COMPLETED), path="outputs/model.txt"
                    )
                )
            )
            stdout = await log_of(daemon, first_landing.COMPLETED, logs_pb2.LOG_SOURCE_STDOUT)
            stderr = await log_of(daemon, first_landing.OTHER, logs_pb2.LOG_SOURCE_STDERR)
            failed = await daemon.run(name_of(first_landing.FAILED))

        assert [run.name.rpartition("/")[2] for run in listed.runs] == [
            first_landing.OTHER,
            first_landing.FAILED,
            first_landing.COMPLETED,
        ]
        assert b"".join(part.data for part in file) == b"weights\n"
        assert stdout == b"trained\n"
        assert stderr == b"a warning\n"
        assert failed.end.exit_code == 3

    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    try:
        asyncio.run(main(root / "home"))
    finally:
        shutil.rmtree(root)
