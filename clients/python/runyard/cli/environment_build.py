"""Stores an environment under a name, and submits the run that builds one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runyard import environment_store
from runyard.cli.request import named_environment
from runyard.environment import Environment
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import RunName

if TYPE_CHECKING:
    from runyard.workspace import Workspace
    from runyardpb.v1 import environments_pb2


def store_environment(workspace: Workspace, source: str, name: str) -> environments_pb2.Environment:
    """Stores the environment of a file under a name; the same content is the same version."""
    found = named_environment(source, os.curdir)
    if not isinstance(found, Environment):
        raise SpecInvalid(
            f"{source} is no file that an environment is read from",
            hint="with --name give a requirements.txt, a conda YAML file or a Dockerfile",
            source=source,
        )
    return environment_store.store_environment(workspace, name, found, caller_interpreter())


def submit_build(workspace: Workspace, source: str, target: str | None) -> RunName:
    """Submits the run that builds the environment of a file, or a stored one by its name."""
    from runyard.run_spec import LOCAL
    from runyardpb.v1 import runs_pb2

    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD, compute_target=target or LOCAL
    )
    found = named_environment(source, os.curdir)
    run = environment_store.submit_build(workspace, spec, found, caller_interpreter())
    return RunName.parse(run.name)


def caller_interpreter() -> bytes:
    """The caller's Python, which packages are installed for where the file names no version."""
    from runyard.home import client_folder, home
    from runyard.interpreter import InterpreterChoice

    choice = InterpreterChoice(os.environ, os.getcwd(), client_folder(home()))
    return os.fsencode(choice.choose().path)
