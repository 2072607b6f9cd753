"""Stored environments: messages of the contract to `Environment` objects."""

from __future__ import annotations

import os

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
    found.python.conda_dependencies = CondaDependencies.from_requirements(
        Requirements(
            lines=tuple(spec.pip.requirements),
            constraints=tuple(spec.pip.constraints),
            # The reverse of `run_spec.environment_message`.
            index_options=tuple(option.replace("=", " ", 1) for option in spec.pip.index_options),
        ),
        spec.pip.python_version or None,
    )
    return found
