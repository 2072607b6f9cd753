"""runyard: one training script, unchanged, on any machine you own.

    from runyard import Workspace, Experiment, ScriptRunConfig

    run = Experiment(Workspace(), "iris").submit(ScriptRunConfig(script="train.py"))
    run.wait_for_completion(show_output=True)

Public names are loaded when they are first used, so the import costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

# Not from typing, which costs as much as starting Python does; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runyard.compute import ComputeTarget
    from runyard.conda_dependencies import CondaDependencies
    from runyard.environment import Environment
    from runyard.experiment import Experiment
    from runyard.run import Run
    from runyard.runconfig import RunConfiguration
    from runyard.script_run_config import ScriptRunConfig
    from runyard.waiting import wait_all
    from runyard.workspace import Workspace
    from runyard_contract.errors import (
        ComputeNotFound,
        EnvironmentNotFound,
        ExperimentNotFound,
        NotFound,
        RunFailed,
        RunNotFound,
        RunyardError,
        SpecInvalid,
        Unsupported,
    )

_MODULES = {
    "wait_all": "runyard.waiting",
    "Workspace": "runyard.workspace",
    "Experiment": "runyard.experiment",
    "Run": "runyard.run",
    "ScriptRunConfig": "runyard.script_run_config",
    "RunConfiguration": "runyard.runconfig",
    "Environment": "runyard.environment",
    "CondaDependencies": "runyard.conda_dependencies",
    "ComputeTarget": "runyard.compute",
    "RunyardError": "runyard_contract.errors",
    "RunFailed": "runyard_contract.errors",
    "SpecInvalid": "runyard_contract.errors",
    "Unsupported": "runyard_contract.errors",
    "NotFound": "runyard_contract.errors",
    "RunNotFound": "runyard_contract.errors",
    "ExperimentNotFound": "runyard_contract.errors",
    "EnvironmentNotFound": "runyard_contract.errors",
    "ComputeNotFound": "runyard_contract.errors",
}

__all__ = [
    "wait_all",
    "Workspace",
    "Experiment",
    "Run",
    "ScriptRunConfig",
    "RunConfiguration",
    "Environment",
    "CondaDependencies",
    "ComputeTarget",
    "RunyardError",
    "RunFailed",
    "SpecInvalid",
    "Unsupported",
    "NotFound",
    "RunNotFound",
    "ExperimentNotFound",
    "EnvironmentNotFound",
    "ComputeNotFound",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from runyard_contract.version import version

        return version()
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'runyard' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value  # the next use is a plain look-up
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
