"""Stored environments: messages of the contract to `Environment` objects."""

from __future__ import annotations

import os
from collections.abc import Iterable

from runyard.conda_dependencies import CondaDependencies
from runyard.environment import Environment
from runyard.requirements import Requirements
from runyardpb.v1 import environments_pb2


def environment(message: environments_pb2.Environment) -> Environment:
    """The environment in a message."""
    # workspaces/W/environments/E/versions/V
    found = Environment(message.name.split("/")[3], str(message.version))
    spec = message.spec
    if spec.WhichOneof("backend") == "user_managed":
        found.python.user_managed_dependencies = True
        found.python.interpreter_path = os.fsdecode(spec.user_managed.interpreter_path) or "python"
        return found
    if spec.WhichOneof("backend") == "conda":
        conda = spec.conda
        found.python.conda_dependencies = CondaDependencies.from_requirements(
            _requirements(conda.pip_requirements, conda.pip_constraints, conda.pip_index_options),
            conda.python_version or None,
            conda.packages,
            conda.channels,
        )
    else:
        pip = spec.pip
        found.python.conda_dependencies = CondaDependencies.from_requirements(
            _requirements(pip.requirements, pip.constraints, pip.index_options),
            pip.python_version or None,
        )
    return found


def _requirements(
    lines: Iterable[str], constraints: Iterable[str], index_options: Iterable[str]
) -> Requirements:
    """What pip has to install; the reverse of `run_spec.environment_message`."""
    return Requirements(
        lines=tuple(lines),
        constraints=tuple(constraints),
        index_options=tuple(option.replace("=", " ", 1) for option in index_options),
    )
