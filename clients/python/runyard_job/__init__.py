"""The library inside a job: metrics, tags and files of the run that the script belongs to.

    from runyard import Run
    run = Run.get_context()
    run.log("loss", 0.1)

Standard library only, Python 3.8 and later. Outside a job `Run.get_context()` gives an offline run
that prints, so one script works both ways.
"""

from __future__ import annotations

from runyard_job.run import Experiment, NotInRun, OfflineRun, Run

__all__ = ["Experiment", "NotInRun", "OfflineRun", "Run"]
