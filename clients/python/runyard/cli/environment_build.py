"""Stores an environment under a name, and submits the run that builds one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runyard import environment_store
from runyard.cli.render.amounts import count_text
from runyard.cli.request import named_environment
from runyard.environment import Environment
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import RunName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runyard.cli.output import Output
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
    from runyard.run_spec import LOCAL
    from runyardpb.v1 import runs_pb2

    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        compute_target=target or LOCAL,
        seals_environment=seals,
        refresh_environment=is_refresh,
    )
    found = named_environment(source, os.curdir)
    run = environment_store.submit_build(workspace, spec, found, caller_interpreter())
    return RunName.parse(run.name)


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


def caller_interpreter() -> bytes:
    """The caller's Python, which packages are installed for where the file names no version."""
    from runyard.home import client_folder, home
    from runyard.interpreter import InterpreterChoice

    choice = InterpreterChoice(os.environ, os.getcwd(), client_folder(home()))
    return os.fsencode(choice.choose().path)
