"""Stands in for the package `runyard` inside a job, so that `from runyard import Run` always works.

This file is `runyard/__init__.py` of the zip on a job's PYTHONPATH. Where the job's environment has
the real SDK further along sys.path, that is loaded instead, under this name and whole. Elsewhere
there is `Run`, and for every other public name an ImportError that says what to install.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import zipimport
from typing import Any, Iterator

_WHAT_TO_DO = (
    "inside a job only `from runyard import Run` works by itself; add runyard to the run's"
    " environment (pip install runyard) to use the rest of the SDK there"
)


def _load_sdk() -> bool:
    """Puts the installed SDK where this module stands, if there is one.

    What lies in a zip is never it: the SDK needs compiled packages, so such a find is this file
    again, or that of another run's zip when one job submits another.
    """
    for spec in _candidates():
        loader = spec.loader
        # A folder that happens to have the name, without an __init__.py, has no origin.
        if loader and spec.origin and not isinstance(loader, zipimport.zipimporter):
            sdk = importlib.util.module_from_spec(spec)
            sys.modules["runyard"] = sdk  # the import system hands out what stands here at the end
            loader.exec_module(sdk)
            return True
    return False


def _candidates() -> Iterator[importlib.machinery.ModuleSpec]:
    """Every `runyard` that this interpreter could import, in its own order of search."""
    for finder in sys.meta_path:
        by_entry = finder is importlib.machinery.PathFinder
        for path in [[entry] for entry in sys.path] if by_entry else [None]:
            spec = finder.find_spec("runyard", path) if hasattr(finder, "find_spec") else None
            if spec is not None:
                yield spec


class _AbsentSubmodules:
    """Finder for `runyard.compute` and the like, of which there are none."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("runyard."):
            raise ModuleNotFoundError("no module %s here: %s" % (name, _WHAT_TO_DO), name=name)


if not _load_sdk():
    from runyard_job import Run

    __all__ = ["Run"]
    sys.meta_path.insert(0, _AbsentSubmodules)

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError("module 'runyard' has no attribute %r" % name)
        raise ImportError("cannot import %r from runyard: %s" % (name, _WHAT_TO_DO), name="runyard")
