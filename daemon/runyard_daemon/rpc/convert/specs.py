"""Specifications of runs and environments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from runyard_contract.conda_specification import conda_specification
from runyard_contract.digest import is_digest
from runyard_contract.environment_spec import packages_hash
from runyard_contract.errors import EnvironmentNotFound, NameInvalid, SpecInvalid
from runyard_contract.ids import check_environment_name
from runyard_contract.limits import TAGS_MAX
from runyard_daemon.control.environment_rules import (
    CondaEnvironment,
    DockerEnvironment,
    Environment,
    PipEnvironment,
    UserEnvironment,
    Variables,
)
from runyard_daemon.control.finish import SpecFacts
from runyard_daemon.control.spec import DEFAULT_GRACE_S, RunWish
from runyard_daemon.core.types import Resources
from runyard_daemon.rpc.convert.times import from_duration
from runyard_daemon.store.environments import EnvironmentRecord
from runyard_daemon.store.runs import SpecRecord
from runyardpb.v1 import common_pb2, environments_pb2, runs_pb2

DEFAULT_COMPUTE = "local"
_PYTHON_TAG = re.compile(r"-cp(\d)(\d+)$")
"""Of the platform of a lock of pip packages, such as "linux-x86_64-cp311"."""
_SPECS_READ = 16
"""Specifications whose facts are kept: runs of a sweep mostly have the same."""


def to_wish(spec: runs_pb2.RunSpec, workspace: str) -> RunWish:
    """The specification as its rules see it. Raises SpecInvalid for a snapshot's name of another
    form or workspace."""
    if spec.kind not in runs_pb2.RunSpec.Kind.values():
        raise SpecInvalid(violations=[("spec.kind", f"{spec.kind} is no kind of run")])
    program = spec.WhichOneof("program")
    argv = spec.script.arguments if program == "script" else spec.command.argv
    environment = to_environment(spec.environment) if spec.HasField("environment") else None
    stored_name, stored_version = _stored_environment(spec.environment_name, workspace)
    return RunWish(
        is_build=spec.kind == runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        compute=spec.compute_target or DEFAULT_COMPUTE,
        script=spec.script.path if program == "script" else None,
        argv=tuple(argv),
        snapshot=snapshot_digest(spec.snapshot, workspace),
        environment=environment,
        has_empty_environment=spec.HasField("environment") and environment is None,
        environment_name=stored_name,
        environment_version=stored_version,
        variables=_variables(spec.environment_variables),
        variables_of_environment=_variables(spec.environment.variables),
        caller_variables=_variables(spec.caller_environment),
        resources=to_resources(spec.resources),
        limits=Resources(spec.limits.cpu_millicores, spec.limits.memory_bytes, 0),
        priority=spec.priority,
        max_duration_s=(
            from_duration(spec.max_duration) if spec.HasField("max_duration") else None
        ),
        grace_s=from_duration(spec.cancel_grace) if spec.HasField("cancel_grace") else None,
        size_bytes=spec.ByteSize(),
        definition_bytes=len(spec.run_definition_json.encode()),
        caller_interpreter=spec.caller_interpreter,
        is_refresh=spec.refresh_environment,
    )


def to_labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Tags or properties. Raises SpecInvalid for more than a run has, which may be very many."""
    if len(labels) > TAGS_MAX:
        raise SpecInvalid(violations=[(field, f"has {len(labels)} entries; at most {TAGS_MAX}")])
    return dict(labels)


def _stored_environment(name: str, workspace: str) -> tuple[str, int | None]:
    """Name and version of a stored environment, given by its id or its resource name."""
    if "/" not in name:
        return name, None
    parent, environment, version = parse_environment_name(name)
    if parent.casefold() != workspace.casefold():
        raise SpecInvalid(
            violations=[("spec.environment_name", f"{name[:100]!r} is of another workspace")]
        )
    return environment, version


def parse_environment_name(text: str) -> tuple[str, str, int | None]:
    """Workspace, name and version (None: the newest) of an environment's resource name."""
    parts = text.split("/")
    is_versioned = len(parts) == 6 and parts[4] == "versions"
    is_form = parts[0] == "workspaces" and len(parts) >= 4 and parts[2] == "environments"
    if not is_form or not (is_versioned or len(parts) == 4):
        raise NameInvalid(
            f"{text[:100]!r} is no environment's name",
            hint="use workspaces/W/environments/E, or with /versions/N",
            name=text[:100],
        )
    name = check_environment_name(parts[3])
    if not is_versioned:
        return parts[1], name, None
    if not parts[5].isdecimal() or len(parts[5]) > 9:
        raise EnvironmentNotFound.named(f"{name}, version {parts[5][:30]}")
    return parts[1], name, int(parts[5])


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
        return _pip(spec.pip)
    if backend == "conda":
        return _conda(spec.conda)
    return _docker(spec.docker) if backend == "docker" else None


def _pip(pip: environments_pb2.PipPackages) -> PipEnvironment:
    return PipEnvironment(
        python_version=pip.python_version,
        requirements=tuple(pip.requirements),
        constraints=tuple(pip.constraints),
        index_options=tuple(pip.index_options),
        base_interpreter=pip.base_interpreter_path,
    )


def _conda(conda: environments_pb2.CondaPackages) -> CondaEnvironment:
    return CondaEnvironment(
        python_version=conda.python_version,
        packages=tuple(conda.packages),
        channels=tuple(conda.channels),
        pip_requirements=tuple(conda.pip_requirements),
        pip_constraints=tuple(conda.pip_constraints),
        pip_index_options=tuple(conda.pip_index_options),
    )


def _docker(docker: environments_pb2.DockerImage) -> DockerEnvironment:
    packages: PipEnvironment | CondaEnvironment | None = None
    if docker.WhichOneof("packages") == "pip":
        packages = _pip(docker.pip)
    elif docker.WhichOneof("packages") == "conda":
        packages = _conda(docker.conda)
    return DockerEnvironment(
        image=docker.image,
        dockerfile=docker.dockerfile,
        packages=packages,
        interpreter=docker.interpreter_path,
        shm_bytes=docker.shm_bytes,
        network=docker.network,
        mounts=tuple((mount.source, mount.target) for mount in docker.mounts),
        arguments=tuple(docker.arguments),
    )


def environment_hash(environment: bytes) -> str:
    """The hash that locks of a serialized environment are kept under; empty where the backend has
    no locks."""
    spec = environments_pb2.EnvironmentSpec.FromString(environment)
    if spec.WhichOneof("backend") in (None, "user_managed"):
        return ""
    return packages_hash(spec)


def describe_environment(kept: SpecRecord, platform: str) -> str:
    """The packages of a run's environment as conda YAML; empty where none are installed for it.

    `platform` is that of its lock, which may tell the Python.
    """
    if not kept.environment:
        return ""
    environment = environments_pb2.EnvironmentSpec.FromString(kept.environment)
    name = runs_pb2.RunSpec.FromString(kept.spec).environment_name
    if "/" in name:
        name = parse_environment_name(name)[1]
    python = _PYTHON_TAG.search(platform)
    return conda_specification(environment, name, f"{python[1]}.{python[2]}" if python else "")


def resolve_environment(
    spec: runs_pb2.RunSpec, environment: bytes
) -> environments_pb2.EnvironmentSpec | None:
    """What an agent provides: the environment of the run, else the caller's interpreter."""
    if environment:
        return environments_pb2.EnvironmentSpec.FromString(environment)
    if spec.caller_interpreter:
        return environments_pb2.EnvironmentSpec(
            user_managed=environments_pb2.UserManagedPython(
                interpreter_path=spec.caller_interpreter
            )
        )
    return None


@functools.lru_cache(maxsize=_SPECS_READ)
def read_spec(kept: SpecRecord) -> SpecFacts:
    """What the end of a run, or a cancel, needs to know of its specification."""
    spec = runs_pb2.RunSpec.FromString(kept.spec)
    environment = resolve_environment(spec, kept.environment)
    interpreter = environment.user_managed.interpreter_path if environment is not None else b""
    program = spec.script.path
    if spec.WhichOneof("program") == "command" and spec.command.argv:
        program = spec.command.argv[0].decode("utf-8", "backslashreplace")
    return SpecFacts(
        program=program or "the environment's build",
        interpreter=interpreter.decode("utf-8", "backslashreplace"),
        max_duration_s=from_duration(spec.max_duration) if spec.HasField("max_duration") else None,
        grace_s=(
            from_duration(spec.cancel_grace) if spec.HasField("cancel_grace") else DEFAULT_GRACE_S
        ),
        merge_stderr=spec.merge_stderr,
    )


def completed_spec(
    spec: runs_pb2.RunSpec,
) -> Callable[[EnvironmentRecord | None], SpecRecord]:
    """How a specification is kept: as it came, and beside it the environment it stands for.

    Without fields that this version does not know: nobody reads them, and they may be large.
    """

    def complete(stored: EnvironmentRecord | None) -> SpecRecord:
        spec.DiscardUnknownFields()
        data = spec.SerializeToString(deterministic=True)
        if stored is not None:
            return SpecRecord(data, stored.spec)
        if spec.HasField("environment"):
            return SpecRecord(data, spec.environment.SerializeToString(deterministic=True))
        return SpecRecord(data)

    return complete
