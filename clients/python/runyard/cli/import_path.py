"""Keeps a user's own `click.py` or `grpc.py` from standing in for what the command imports."""

from __future__ import annotations

import os
from collections.abc import Mapping


def without_pythonpath(path: list[str], environ: Mapping[str, str], own_file: str) -> list[str]:
    """The import path without the folders of PYTHONPATH, which is for the user's scripts.

    A folder that `own_file` (a file of the running package) lies in stays: runyard is installed
    there. Putting the others last would not do: a `google.py` there still hides the namespace
    package `google`.
    """
    dropped = {
        os.path.abspath(folder)
        for folder in environ.get("PYTHONPATH", "").split(os.pathsep)
        if folder and not os.path.abspath(own_file).startswith(os.path.abspath(folder) + os.sep)
    }
    return [folder for folder in path if os.path.abspath(folder) not in dropped]
