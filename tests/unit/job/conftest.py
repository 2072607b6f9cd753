from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard_job import Run
from runyard_job.bundle import write_zip

RUN_ID = "iris_1764000000_0a1b2c3d"


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.fixture
def in_job(job_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run of a process that the agent started with `job_dir` as its job folder."""
    monkeypatch.setenv("RUNYARD_RUN_ID", RUN_ID)
    monkeypatch.setenv("RUNYARD_EXPERIMENT", "iris")
    monkeypatch.setenv("RUNYARD_JOB_DIR", str(job_dir))
    return Run.get_context()


@pytest.fixture
def entries(job_dir: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The parsed lines of a file of the job folder."""

    def read(name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        path = job_dir / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture(scope="session")
def job_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joblib") / "runyard-job.zip"
    write_zip(path)
    return path
