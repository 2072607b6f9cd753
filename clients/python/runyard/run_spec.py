"""The specification of a run, from what the user asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration

from runyard import quantities
from runyard.environment_names import specified_name
from runyard.script_run_config import ScriptRunConfig, as_bytes
from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import check_compute_name
from runyard_contract.limits import ARGUMENTS_BYTES, ARGUMENTS_MAX, ENV_BYTES, ENV_VARS_MAX
from runyard_contract.value import value_class
from runyardpb.v1 import common_pb2, environments_pb2, runs_pb2

if TYPE_CHECKING:
    from runyard.environment import Environment, EnvironmentSpecification

LOCAL = "local"
_DEFINITION_BYTES = 256 << 10


@value_class
class Caller:
    """Who submits: the interpreter to run scripts with, and the variables that a job on the local
    target gets (see `caller_environment`)."""

    interpreter: bytes
    variables: Mapping[bytes, bytes]


@value_class
class _Wanted:
    """A configuration with its run configuration merged in: what was said nearer comes first."""

    target: str
    script: str
    arguments: list[bytes]
    command: list[bytes]
    environment: Environment | None
    environment_name: str
    max_duration_s: float | None
    variables: Mapping[bytes, bytes]
    definition: Mapping[str, Any]


def run_spec(
    config: ScriptRunConfig, script: str, snapshot: str, caller: Caller
) -> runs_pb2.RunSpec:
    """The specification of the run that a configuration asks for.

    Args:
        script: path of the script in the snapshot, empty for a command.
        snapshot: the snapshot's resource name.

    Raises SpecInvalid or Unsupported, naming what is wrong.
    """
    wanted = _merge(config, script)
    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_PROGRAM,
        compute_target=wanted.target,
        snapshot=snapshot,
        environment_name=_stored_name(wanted.environment_name, snapshot),
        environment_variables=_variables(wanted.variables),
        resources=common_pb2.Resources(
            cpu_millicores=0 if config.cpus is None else quantities.cpu_millicores(config.cpus),
            memory_bytes=0 if config.memory is None else quantities.memory_bytes(config.memory),
            gpu_count=0 if config.gpus is None else quantities.gpu_count(config.gpus),
        ),
        priority=quantities.priority(config.priority),
        merge_stderr=config.merge_stderr,
        run_definition_json=_json(wanted.definition),
    )
    if wanted.script:
        spec.script.path = wanted.script
        spec.script.arguments.extend(wanted.arguments)
    else:
        spec.command.argv.extend(wanted.command)
    if config.cpu_limit is not None:
        spec.limits.cpu_millicores = quantities.cpu_millicores(config.cpu_limit)
    if config.memory_limit is not None:
        spec.limits.memory_bytes = quantities.memory_bytes(config.memory_limit)
    if wanted.max_duration_s is not None:
        spec.max_duration.CopyFrom(_duration(wanted.max_duration_s))
    if config.cancel_grace_seconds is not None:
        spec.cancel_grace.CopyFrom(_duration(quantities.grace_s(config.cancel_grace_seconds)))
    if wanted.target.lower() == LOCAL:
        spec.caller_interpreter = caller.interpreter
        spec.caller_environment.extend(_variables(caller.variables))
    if wanted.environment is not None:
        specification = wanted.environment.to_specification()
        base = spec.caller_interpreter
        message = environment_message(specification, base)
        if message is not None:
            spec.environment.CopyFrom(message)
    return spec


def _stored_name(named: str, snapshot: str) -> str:
    """How a stored environment is named, which is in the snapshot's workspace."""
    return specified_name(snapshot.split("/")[1], named) if named else ""


def environment_message(
    specification: EnvironmentSpecification, base_interpreter: bytes
) -> environments_pb2.EnvironmentSpec | None:
    """The message of an environment; None for one that asks for nothing."""
    if specification.docker is not None:
        return _docker_message(specification)
    if specification.kind == "user_managed":
        if not specification.interpreter_path:
            return None
        path = specification.interpreter_path.encode("utf-8", "surrogateescape")
        return environments_pb2.EnvironmentSpec(
            user_managed=environments_pb2.UserManagedPython(interpreter_path=path)
        )
    if specification.kind == "conda":
        return environments_pb2.EnvironmentSpec(conda=_conda_message(specification))
    pip = _pip_message(specification)
    pip.base_interpreter_path = base_interpreter
    return environments_pb2.EnvironmentSpec(pip=pip)


def _docker_message(
    specification: EnvironmentSpecification,
) -> environments_pb2.EnvironmentSpec | None:
    """The same of one in a container image."""
    docker = specification.docker
    if docker is None:
        return None
    message = environments_pb2.DockerImage(
        image=docker.image,
        dockerfile=docker.dockerfile,
        interpreter_path=specification.interpreter_path,
        shm_bytes=docker.shm_bytes,
        network=docker.network,
        arguments=docker.arguments,
    )
    if specification.kind == "conda":
        message.conda.CopyFrom(_conda_message(specification))
    elif specification.kind == "pip":
        message.pip.CopyFrom(_pip_message(specification))
    return environments_pb2.EnvironmentSpec(docker=message)


def _conda_message(specification: EnvironmentSpecification) -> environments_pb2.CondaPackages:
    return environments_pb2.CondaPackages(
        python_version=specification.python_version or "",
        packages=specification.conda_packages,
        channels=specification.channels,
        pip_requirements=specification.requirements,
        pip_constraints=specification.constraints,
        pip_index_options=_index_options(specification),
    )


def _pip_message(specification: EnvironmentSpecification) -> environments_pb2.PipPackages:
    return environments_pb2.PipPackages(
        python_version=specification.python_version or "",
        requirements=specification.requirements,
        constraints=specification.constraints,
        index_options=_index_options(specification),
    )


def _index_options(specification: EnvironmentSpecification) -> list[str]:
    return [option.replace(" ", "=", 1) for option in specification.index_options]


def _merge(config: ScriptRunConfig, script: str) -> _Wanted:
    """The configuration with its run configuration under it."""
    base = config.run_config
    if base is not None:
        base.check_supported()
    environment_name = config.environment if isinstance(config.environment, str) else ""
    environment = config.environment if not isinstance(config.environment, str) else None
    if base is not None and not environment_name and environment is None:
        environment = base.environment
    arguments = config.arguments or (list(base.arguments) if base is not None else [])
    target = _target_name(config.compute_target or (base.target if base is not None else LOCAL))
    command = [] if script else _command_of(config)
    limit = config.max_run_duration_seconds
    if limit is None and base is not None:
        limit = base.max_run_duration_seconds
    variables: dict[str | bytes, str | bytes] = {}
    if environment is not None:
        variables.update(environment.environment_variables)
    variables.update(config.environment_variables)
    definition = {
        **_plain(base),
        "script": script or None,
        "arguments": [_text(word) for word in arguments],
        "command": [_text(word) for word in command],
        "target": target,
        "environment": _plain_environment(environment, environment_name),
        "maxRunDurationSeconds": limit,
        "nodeCount": 1,
    }
    return _Wanted(
        target=target,
        script=script,
        arguments=_checked([as_bytes(f"arguments[{n}]", w) for n, w in enumerate(arguments)]),
        command=_checked([as_bytes(f"command[{n}]", w) for n, w in enumerate(command)]),
        environment=environment,
        environment_name=environment_name,
        max_duration_s=None if limit is None else quantities.duration_s(limit),
        variables=_checked_variables(variables),
        definition=definition,
    )


def _command_of(config: ScriptRunConfig) -> list[Any]:
    """The command of a configuration without a script."""
    command = config.command
    if command is None and config.run_config is not None:
        command = list(config.run_config.command)
    if not command:
        raise SpecInvalid(
            "there is neither a script nor a command to run",
            hint='give script="train.py" or command=["program", "argument"]',
        )
    return command


def script_of(config: ScriptRunConfig) -> str:
    """The script that a configuration names, empty for a command."""
    import os

    if config.command is not None:
        return ""
    if config.script is not None:
        return os.fspath(config.script)
    base = config.run_config
    return base.script if base is not None and not base.command else ""


def _target_name(target: object) -> str:
    """The name of a target that was given by name or as an object."""
    name = target if isinstance(target, str) else getattr(target, "name", None)
    if not isinstance(name, str):
        raise SpecInvalid(
            f"compute_target must be a name or a compute target, not {type(target).__name__}",
            hint="list what there is with `runyard compute list`",
        )
    return check_compute_name(name)


def _checked(words: list[bytes]) -> list[bytes]:
    """Words within the limits of a command line."""
    size_bytes = sum(len(word) + 1 for word in words)
    if len(words) > ARGUMENTS_MAX or size_bytes > ARGUMENTS_BYTES:
        raise SpecInvalid(
            f"{len(words)} arguments of {size_bytes} bytes are too many: at most {ARGUMENTS_MAX} "
            f"of {ARGUMENTS_BYTES} bytes together",
            hint="write them to a file in the source directory and give its name",
        )
    return words


def _checked_variables(variables: Mapping[str | bytes, str | bytes]) -> dict[bytes, bytes]:
    """Variables that a process can be given, as bytes."""
    found: dict[bytes, bytes] = {}
    for name, value in variables.items():
        raw = as_bytes("the name of an environment variable", name)
        if not raw or b"=" in raw:
            raise SpecInvalid(f"{name!r} can't be the name of an environment variable")
        found[raw] = as_bytes(f"environment variable {_text(raw)}", value)
    size_bytes = sum(len(name) + len(value) + 2 for name, value in found.items())
    if len(found) > ENV_VARS_MAX or size_bytes > ENV_BYTES:
        raise SpecInvalid(
            f"{len(found)} environment variables of {size_bytes} bytes are too many: at most "
            f"{ENV_VARS_MAX} of {ENV_BYTES} bytes together"
        )
    return found


def _variables(variables: Mapping[bytes, bytes]) -> list[common_pb2.EnvironmentVariable]:
    """Variables as messages."""
    return [
        common_pb2.EnvironmentVariable(name=name, value=value) for name, value in variables.items()
    ]


def _duration(seconds: float) -> Duration:
    """Seconds as a message."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _text(word: Any) -> str:
    """A word for people."""
    return word.decode("utf-8", "backslashreplace") if isinstance(word, bytes) else str(word)


def _plain(base: Any) -> dict[str, Any]:
    """The keys of a run configuration, in camel case; empty without one."""
    if base is None:
        return {"framework": "Python", "communicator": "None"}
    from runyard.schema import plain_section

    return dict(plain_section(base))


def _plain_environment(environment: Environment | None, name: str) -> dict[str, Any]:
    """An environment in camel case, without its registry's password."""
    if environment is None:
        return {"name": name or None}
    from runyard.schema import plain_section

    plain = dict(plain_section(environment))
    docker = plain.get("docker")
    if isinstance(docker, dict) and isinstance(docker.get("baseImageRegistry"), dict):
        docker["baseImageRegistry"].pop("password", None)
    return plain


def _json(definition: Mapping[str, Any]) -> str:
    """The definition as JSON; without what makes it too long."""
    text = json.dumps(definition, default=str)
    if len(text) <= _DEFINITION_BYTES:
        return text
    short = {**definition, "arguments": [], "environment": {}, "command": []}
    text = json.dumps(short, default=str)
    return text if len(text) <= _DEFINITION_BYTES else "{}"
