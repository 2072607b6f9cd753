"""The script of the crash campaigns' job: `FOLDER PLAN`, PLAN as JSON (see `support.witness.Plan`).

It lies beside `witness_job.py` in the source folder of each run.
"""

from __future__ import annotations

import os
import sys

EXECUTIONS = "executions"


def note_execution(folder: str) -> None:
    """One line for each execution of an attempt."""
    line = f"{os.environ['RUNYARD_RUN_ID']} {os.environ['RUNYARD_ATTEMPT']} {os.getpid()}\n"
    fd = os.open(f"{folder}/{EXECUTIONS}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


if __name__ == "__main__":
    note_execution(sys.argv[1])  # before anything else, other imports included
    import json

    from witness_job import main

    main(sys.argv[1], json.loads(sys.argv[2]))
