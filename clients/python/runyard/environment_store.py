"""Environments kept by the daemon: stored under a name, read back, built ahead."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from runyard.caller_environment import caller_environment, current_environment
from runyard.environment_names import specified_name
from runyard.request_id import new_request_id
from runyard.run_spec import environment_message
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import ExperimentName, check_environment_name
from runyard_contract.limits import PAGE_SIZE_MAX
from runyardpb.v1 import environments_pb2, environments_pb2_grpc, runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.environment import Environment
    from runyard.workspace import Workspace

BUILD_EXPERIMENT = "environments"


def environment_spec(
    environment: Environment, interpreter: bytes
) -> environments_pb2.EnvironmentSpec | None:
    """An environment with its variables, to store or to build; None for one that names neither
    packages nor an interpreter nor an image.

    `interpreter` is the caller's Python, which pip packages are for where no version is named.
    Raises as `Environment.to_specification`.
    """
    specification = environment.to_specification()
    message = environment_message(specification, interpreter)
    if message is not None:
        _add_variables(message, specification.environment_variables)
    return message


def _add_variables(message: environments_pb2.EnvironmentSpec, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        message.variables.add(name=os.fsencode(name), value=os.fsencode(value))


def _callers_python(environment: Environment) -> environments_pb2.EnvironmentSpec:
    """An interpreter that is not named: the node's own, with the environment's variables."""
    message = environments_pb2.EnvironmentSpec(user_managed=environments_pb2.UserManagedPython())
    _add_variables(message, environment.to_specification().environment_variables)
    return message


def store_environment(
    workspace: Workspace, name: str, environment: Environment, interpreter: bytes
) -> environments_pb2.Environment:
    """Stores an environment under a name; the same content is the same version, other the next."""
    spec = environment_spec(environment, interpreter)
    if spec is None and environment.python.user_managed_dependencies:
        spec = _callers_python(environment)
    if spec is None:
        raise SpecInvalid(
            f"environment {name} asks for nothing, so there is nothing to store",
            hint="add packages or an image, or set python.user_managed_dependencies",
            environment=name,
        )
    answer = workspace.connection.unary(
        environments_pb2_grpc.EnvironmentServiceStub,
        lambda stub: stub.CreateEnvironment,
        environments_pb2.CreateEnvironmentRequest(
            parent=f"workspaces/{workspace.name}",
            environment_id=check_environment_name(name),
            spec=spec,
            request_id=new_request_id(),
        ),
    )
    return answer.environment


def get_environment(
    workspace: Workspace, name: str, version: int | str | None = None
) -> environments_pb2.Environment:
    """A stored environment, without a version the newest. Raises EnvironmentNotFound, with the
    nearest name."""
    resource = f"workspaces/{workspace.name}/environments/{check_environment_name(name)}"
    answer = workspace.connection.unary(
        environments_pb2_grpc.EnvironmentServiceStub,
        lambda stub: stub.GetEnvironment,
        environments_pb2.GetEnvironmentRequest(
            name=resource if version is None else f"{resource}/versions/{version}"
        ),
    )
    return answer.environment


def list_environments(workspace: Workspace) -> Iterator[environments_pb2.Environment]:
    """The stored environments in their newest versions, read page by page."""
    request = environments_pb2.ListEnvironmentsRequest(
        parent=f"workspaces/{workspace.name}", page_size=PAGE_SIZE_MAX
    )
    while True:
        answer = workspace.connection.unary(
            environments_pb2_grpc.EnvironmentServiceStub,
            lambda stub: stub.ListEnvironments,
            request,
        )
        yield from answer.environments
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def submit_build(
    workspace: Workspace,
    spec: runs_pb2.RunSpec,
    environment: Environment | str,
    interpreter: bytes,
) -> runs_pb2.Run:
    """Submits the run of kind ENVIRONMENT_BUILD that `spec` asks for, of an environment: a stored
    one by its name, or one that need not be stored."""
    if isinstance(environment, str):  # NAME or NAME:VERSION
        spec.environment_name = specified_name(workspace.name, environment)
    else:
        wanted = environment_spec(environment, interpreter)
        if wanted is None:
            named = environment.name or "without a name"
            raise SpecInvalid(
                f"environment {named} asks for nothing, so there is nothing to build",
                hint="list packages in it",
                environment=environment.name or "",
            )
        spec.environment.CopyFrom(wanted)
    spec.caller_interpreter = interpreter
    for name, value in caller_environment(current_environment()).items():
        spec.caller_environment.add(name=name, value=value)
    answer = workspace.connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.CreateRun,
        runs_pb2.CreateRunRequest(
            parent=str(ExperimentName(workspace.name, BUILD_EXPERIMENT)),
            spec=spec,
            request_id=new_request_id(),
        ),
    )
    return answer.run
