"""Specifications of runs and environments."""

from __future__ import annotations

from collections.abc import Iterable

from runyard_contract.digest import digest_bytes, is_digest
from runyard_contract.errors import SpecInvalid
from runyardpb.v1 import common_pb2, environments_pb2, runs_pb2

from runyard_daemon.control.spec import (
    Environment,
    PipEnvironment,
    RunWish,
    UserEnvironment,
    Variables,
)
from runyard_daemon.core.types import Resources
from runyard_daemon.rpc.convert.times import from_duration

DEFAULT_COMPUTE = "local"


def to_wish(spec: runs_pb2.RunSpec, workspace: str) -> RunWish:
    """The specification as its rules see it. Raises SpecInvalid for a snapshot's name of another
    form or workspace."""
    program = spec.WhichOneof("program")
    argv = spec.script.arguments if program == "script" else spec.command.argv
    environment = to_environment(spec.environment) if spec.HasField("environment") else None
    return RunWish(
        is_build=spec.kind == runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        compute=spec.compute_target or DEFAULT_COMPUTE,
        script=spec.script.path if program == "script" else None,
        argv=tuple(argv),
        snapshot=snapshot_digest(spec.snapshot, workspace),
        environment=environment,
        has_empty_environment=spec.HasField("environment") and environment is None,
        environment_name=spec.environment_name,
        variables=_variables(spec.environment_variables),
        caller_variables=_variables(spec.caller_environment),
        resources=to_resources(spec.resources),
        priority=spec.priority,
        max_duration_s=(
            from_duration(spec.max_duration) if spec.HasField("max_duration") else None
        ),
        grace_s=from_duration(spec.cancel_grace) if spec.HasField("cancel_grace") else None,
        definition_bytes=len(spec.run_definition_json.encode()),
        caller_interpreter=spec.caller_interpreter,
    )


def snapshot_digest(name: str, workspace: str) -> str:
    """The digest in `workspaces/{workspace}/snapshots/{digest}`; "" stays "" (no snapshot)."""
    if not name:
        return ""
    prefix = f"workspaces/{workspace}/snapshots/"
    digest = name.removeprefix(prefix)
    if not name.startswith(prefix) or not is_digest(digest):
        raise SpecInvalid(
            violations=[("spec.snapshot", f"is not of the form {prefix}{{digest}}")],
            hint="name the snapshot as CreateSnapshot did",
        )
    return digest


def _variables(variables: Iterable[common_pb2.EnvironmentVariable]) -> Variables:
    return tuple((variable.name, variable.value) for variable in variables)


def to_resources(resources: common_pb2.Resources) -> Resources:
    """Amounts of a machine."""
    return Resources(resources.cpu_millicores, resources.memory_bytes, resources.gpu_count)


def from_resources(resources: Resources) -> common_pb2.Resources:
    """Amounts of a machine."""
    return common_pb2.Resources(
        cpu_millicores=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        gpu_count=resources.gpus,
    )


def to_environment(spec: environments_pb2.EnvironmentSpec) -> Environment | None:
    """An environment as its rules see it; None where no backend is named."""
    backend = spec.WhichOneof("backend")
    if backend == "user_managed":
        return UserEnvironment(spec.user_managed.interpreter_path)
    if backend == "pip":
        pip = spec.pip
        return PipEnvironment(
            python_version=pip.python_version,
            requirements=tuple(pip.requirements),
            constraints=tuple(pip.constraints),
            index_options=tuple(pip.index_options),
            base_interpreter=pip.base_interpreter_path,
        )
    return None


def environment_hash(spec: environments_pb2.EnvironmentSpec) -> str:
    """Digest of the canonical specification: its deterministic encoding."""
    return digest_bytes(spec.SerializeToString(deterministic=True))
