"""The job library's zip, made once for each version of it. The one place that knows its package."""

from __future__ import annotations

import os
from pathlib import Path

from runyard_contract.version import build_id
from runyard_job.bundle import write_zip


def job_library(cache: Path) -> str:
    """The path of the zip for PYTHONPATH, made where it is missing.

    Named by the build, so that jobs that are still running keep theirs when the agent is upgraded.
    """
    path = cache / f"joblib-{build_id()}.zip"
    if not path.exists():
        write_zip(path)
    return os.fspath(path)
