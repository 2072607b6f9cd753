"""Stores an environment under a name, and submits the run that builds one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runyard.cli.request import named_environment
from runyard.environment import Environment
from runyard.request_id import new_request_id
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import ExperimentName, RunName

if TYPE_CHECKING:
    from runyard.workspace import Workspace
    from runyardpb.v1 import environments_pb2

BUILD_EXPERIMENT = "environments"


def store_environment(workspace: Workspace, source: str, name: str) -> environments_pb2.Environment:
    """Stores the environment of a file under a name; the same content is the same version."""
    from runyardpb.v1 import environments_pb2, environments_pb2_grpc

    spec = _from_file(source)
    if spec is None:
        raise SpecInvalid(
            f"{source} is no file that an environment is read from",
            hint="with --name give a requirements.txt, a conda YAML file or a Dockerfile",
            source=source,
        )
    answer = workspace.connection.unary(
        environments_pb2_grpc.EnvironmentServiceStub,
        lambda stub: stub.CreateEnvironment,
        environments_pb2.CreateEnvironmentRequest(
            parent=f"workspaces/{workspace.name}",
            environment_id=name,
            spec=spec,
            request_id=new_request_id(),
        ),
    )
    return answer.environment


def submit_build(
    workspace: Workspace, source: str, target: str | None, *, seals: bool = False
) -> RunName:
    """Submits the run that builds the environment of a file, or a stored one by its name.

    With `seals` it is sealed, too, for other nodes.
    """
    from runyard.caller_environment import caller_environment, current_environment
    from runyard.run_spec import LOCAL
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        compute_target=target or LOCAL,
        seals_environment=seals,
    )
    found = _from_file(source)
    if found is not None:
        spec.environment.CopyFrom(found)
    else:
        spec.environment_name = source
    spec.caller_interpreter = _caller_interpreter()
    for name, value in caller_environment(current_environment()).items():
        spec.caller_environment.add(name=name, value=value)
    parent = ExperimentName(workspace.name, BUILD_EXPERIMENT)
    answer = workspace.connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.CreateRun,
        runs_pb2.CreateRunRequest(parent=str(parent), spec=spec, request_id=new_request_id()),
    )
    return RunName.parse(answer.run.name)


def _from_file(source: str) -> environments_pb2.EnvironmentSpec | None:
    """The specification in a file; None for the name of a stored environment."""
    from runyard.run_spec import environment_message

    found = named_environment(source, os.curdir)
    if not isinstance(found, Environment):
        return None
    specification = found.to_specification()
    message = environment_message(specification, _caller_interpreter())
    if message is None:
        raise SpecInvalid(
            f"{source} asks for nothing, so there is nothing to build",
            hint="list packages in it",
            source=source,
        )
    for name, value in specification.environment_variables.items():
        message.variables.add(name=os.fsencode(name), value=os.fsencode(value))
    return message


def _caller_interpreter() -> bytes:
    """The caller's Python, which packages are installed for where the file names no version."""
    from runyard.home import client_folder, home
    from runyard.interpreter import InterpreterChoice

    choice = InterpreterChoice(os.environ, os.getcwd(), client_folder(home()))
    return os.fsencode(choice.choose().path)
