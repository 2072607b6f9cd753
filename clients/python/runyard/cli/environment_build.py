"""Stores an environment under a name, and submits the run that builds one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runyard.cli.render.amounts import count_text
from runyard.cli.request import named_environment
from runyard.environment import Environment
from runyard.request_id import new_request_id
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import ExperimentName, RunName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runyard.cli.output import Output
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
    workspace: Workspace,
    source: str,
    target: str | None,
    *,
    seals: bool = False,
    is_refresh: bool = False,
) -> RunName:
    """Submits the run that builds the environment of a file, or a stored one by its name.

    With `seals` it is sealed, too, for other nodes; with `is_refresh` it is resolved anew.
    """
    from runyard.caller_environment import caller_environment, current_environment
    from runyard.run_spec import LOCAL
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        compute_target=target or LOCAL,
        seals_environment=seals,
        refresh_environment=is_refresh,
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


def follow_build(
    output: Output, workspace: Workspace, run: RunName, *, is_refresh: bool = False
) -> int:
    """Shows the build live; gives the exit code. With `is_refresh` it says what has changed."""
    from runyard.cli.following import Follower
    from runyard.cli.render.ending import say_end
    from runyard.cli.render.run import run_json
    from runyard.follow import STDOUT

    output.say(f"runyard: {output.paint(run.run, 'bold')} builds the environment")
    follower = Follower(workspace.connection, run, output, environment_stream=STDOUT)
    final = follower.follow(cancels=True)
    exit_code = say_end(output, final, was_interrupted=follower.was_interrupted)
    told = {**run_json(final), "outcome": exit_code} if output.is_json else {}
    if is_refresh and exit_code == 0:
        told["refresh"] = _say_refresh(output, workspace, final.properties)
    if output.is_json:
        output.print_json(told)
    return exit_code


def _say_refresh(output: Output, workspace: Workspace, properties: Mapping[str, str]) -> Any:
    """Says what a refresh has changed of the lock; gives that for JSON."""
    from runyard.cli.render.lock_changes import change_lines, refresh_json
    from runyard.lock_difference import lock_difference

    before, after = properties.get("runyard.lock_before"), properties.get("runyard.lock")
    if before is None or after is None:
        output.say("runyard: resolved for the first time; there was no lock for this platform yet")
        return refresh_json(before, after, ())
    changes = (
        lock_difference(_lock_text(workspace, before), _lock_text(workspace, after))
        if before != after
        else []
    )
    if changes:
        output.say(f"runyard: resolved anew, {count_text(len(changes), 'package')} changed:")
    elif before != after:
        output.say("runyard: resolved anew; the packages are the same, what they need has changed")
    else:
        output.say("runyard: resolved anew; nothing changed")
    for line in change_lines(changes):
        output.say(line)
    return refresh_json(before, after, changes)


def _lock_text(workspace: Workspace, lock_hash: str) -> str:
    from runyardpb.v1 import environments_pb2, environments_pb2_grpc

    answer = workspace.connection.unary(
        environments_pb2_grpc.EnvironmentServiceStub,
        lambda stub: stub.GetEnvironmentLock,
        environments_pb2.GetEnvironmentLockRequest(hash=lock_hash),
    )
    text: str = answer.lock.text
    return text


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
