"""What the supervisor is to execute: the program, its variables, its limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from runyard_agent import launch_container as inside
from runyard_agent.bundles import FORMAT, Bundle
from runyard_agent.environments.protocol import (
    Container,
    EnvironmentFailed,
    ProvidedEnvironment,
)
from runyard_contract.ids import RunName
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

DEFAULT_GRACE_S = 30.0
DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
SHARED_MAX = 16
SHARED_BYTES = 64 << 10
"""Of so many specifications, of at most this size, is remembered what their runs share."""
_OWN_VARIABLES = (
    "RUNYARD_RUN_ID",
    "RUNYARD_EXPERIMENT",
    "RUNYARD_WORKSPACE",
    "RUNYARD_ATTEMPT",
    "RUNYARD_JOB_DIR",
)
"""Variables whose values differ from run to run."""

_Shared = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], tuple[int, ...]]
"""Of what the shared part is made: specification, Python, the environment's variables, GPUs."""


def arguments(spec: runs_pb2.RunSpec, python: bytes) -> list[bytes]:
    """The program and its arguments, byte for byte as submitted."""
    if spec.WhichOneof("program") == "command":
        return list(spec.command.argv)
    return [python, os.fsencode(spec.script.path), *spec.script.arguments]


def _path(path: bytes, python: bytes) -> bytes:
    """PATH with the environment's programs first.

    The folder of a plain installation (/usr/bin) that is on the PATH already stays where the
    user has it: in front it would hide programs of theirs.
    """
    folder = os.path.dirname(python)
    prefix = os.path.dirname(folder)
    is_environment = os.path.exists(os.path.join(prefix, b"pyvenv.cfg")) or os.path.exists(
        os.path.join(prefix, b"conda-meta")
    )
    folders = path.split(b":")
    if folders[0] == folder or (not is_environment and folder in folders):
        return path
    return folder + b":" + path


def grace_s(spec: runs_pb2.RunSpec) -> float:
    """Time between SIGTERM and SIGKILL, seconds."""
    if spec.HasField("cancel_grace"):
        return seconds(spec.cancel_grace)
    return DEFAULT_GRACE_S


def seconds(duration: Any) -> float:
    """A protobuf duration in seconds, not below 0."""
    return max(0.0, float(duration.seconds) + float(duration.nanos) / 1e9)


class Specs:
    """Makes spec.json for run after run. What the runs of one specification share is made once."""

    def __init__(self, *, is_local: bool, library: str, spool_bound_bytes: int) -> None:
        """`library` is the path of the job library; a local job gets its caller's variables."""
        self._is_local = is_local
        self._library = os.fsencode(library)
        self._library_path = library
        self._spool_bound_bytes = spool_bound_bytes
        self._shared: dict[_Shared, bytes] = {}

    def content(
        self,
        lease: pb.Lease,
        bundle: Bundle,
        environment: ProvidedEnvironment,
        gpus: tuple[int, ...],
        agent: Mapping[str, Any],
    ) -> bytes:
        """The content of spec.json. `agent` is what only the agent reads again, after a restart.

        Raises EnvironmentFailed for what a container can't have.
        """
        own = {
            "format": FORMAT,
            "run_id": bundle.key.run_id,
            "attempt": lease.ref.attempt,
            "epoch": lease.ref.epoch,
            "cwd": bundle.work,
            "agent": agent,
        }
        name = RunName.parse(lease.ref.run)
        values = (name.run, name.experiment, name.workspace, str(lease.ref.attempt), bundle.job)
        variables = dict(zip(_OWN_VARIABLES, values, strict=True))
        if environment.container is not None:
            variables["RUNYARD_JOB_DIR"] = inside.JOB
            part = self._contained(
                lease, bundle, environment, environment.container, gpus, variables
            )
            return _json(own | part)
        shared = self._shared_part(lease.spec, environment, gpus)
        return b"%b, %b, %b}" % (_json(own)[:-1], shared, _json(variables)[1:])

    def _shared_part(
        self, spec: runs_pb2.RunSpec, environment: ProvidedEnvironment, gpus: tuple[int, ...]
    ) -> bytes:
        """What other runs of this specification have, too, up to the middle of the variables."""
        data = spec.SerializeToString()
        key = data, environment.python, tuple(environment.env.items()), gpus
        shared = self._shared.get(key)
        if shared is None:
            shared = self._make_shared(spec, environment, gpus)
            if len(self._shared) >= SHARED_MAX:
                del self._shared[next(iter(self._shared))]
            if len(data) <= SHARED_BYTES:
                self._shared[key] = shared
        return shared

    def _make_shared(
        self, spec: runs_pb2.RunSpec, environment: ProvidedEnvironment, gpus: tuple[int, ...]
    ) -> bytes:
        """JSON without its outer brackets, and without the last one of `env`."""
        variables = self._variables(spec, environment, gpus)
        content = {
            "argv": [_text(item) for item in arguments(spec, environment.python)],
            **self._limits(spec),
            "limits": {
                "cpu_millicores": spec.limits.cpu_millicores,
                "memory_bytes": spec.limits.memory_bytes,
            },
            "env": {_text(name): _text(value) for name, value in variables.items()},
        }
        return _json(content)[1:-2]

    def _limits(self, spec: runs_pb2.RunSpec) -> dict[str, Any]:
        """What the supervisor keeps to, whatever it executes."""
        limit_s = seconds(spec.max_duration) if spec.HasField("max_duration") else None
        return {
            "merge_stderr": spec.merge_stderr,
            "grace_s": grace_s(spec),
            "max_duration_s": limit_s,
            "spool_bound_bytes": self._spool_bound_bytes,
        }

    def _contained(
        self,
        lease: pb.Lease,
        bundle: Bundle,
        environment: ProvidedEnvironment,
        container: Container,
        gpus: tuple[int, ...],
        own: Mapping[str, str],
    ) -> dict[str, Any]:
        """What stands for the program where that runs in a container."""
        spec = lease.spec
        if not environment.python and spec.WhichOneof("program") != "command":
            raise EnvironmentFailed(
                "the image has no Python, which the script needs",
                "name one with interpreter_path, add packages to the environment, or run a command",
            )
        argv = arguments(spec, environment.python)
        variables = self._contained_variables(spec, environment)
        variables.update((name.encode(), os.fsencode(value)) for name, value in own.items())
        request = inside.request(
            lease, bundle, container, argv, variables, gpus, self._library_path
        )
        marks = {name: own[name] for name in ("RUNYARD_RUN_ID", "RUNYARD_ATTEMPT")}
        return {
            **self._limits(spec),
            "argv": inside.client_arguments(bundle, "client"),
            "end_argv": inside.client_arguments(bundle, "ending"),
            "env": marks,
            "container": {
                "engine": container.engine,
                "name": inside.container_name(lease, bundle),
                "has_shell": bool(container.shell),
                "request": request,
            },
        }

    def _contained_variables(
        self, spec: runs_pb2.RunSpec, environment: ProvidedEnvironment
    ) -> dict[bytes, bytes]:
        """As `_variables`; what the node has by path stays outside."""
        composed = inside.caller_variables(spec) if self._is_local else {}
        if os.geteuid() != 0:
            composed[b"HOME"] = inside.HOME.encode()
        composed.update(environment.env)
        composed.update((v.name, v.value) for v in spec.environment_variables)
        return self._with_ours(composed, inside.LIBRARY.encode())

    def _variables(
        self, spec: runs_pb2.RunSpec, environment: ProvidedEnvironment, gpus: tuple[int, ...]
    ) -> dict[bytes, bytes]:
        """The caller's variables (local only), the environment's, the run's, then runyard's."""
        composed: dict[bytes, bytes] = {}
        if self._is_local:
            composed.update((v.name, v.value) for v in spec.caller_environment)
        composed.update(environment.env)
        chosen = {v.name: v.value for v in spec.environment_variables}
        composed.update(chosen)
        if b"PATH" not in chosen:
            composed[b"PATH"] = _path(composed.get(b"PATH") or DEFAULT_PATH, environment.python)
        if gpus and b"CUDA_VISIBLE_DEVICES" not in chosen:
            composed[b"CUDA_VISIBLE_DEVICES"] = b",".join(b"%d" % index for index in gpus)
        return self._with_ours(composed, self._library)

    @staticmethod
    def _with_ours(composed: dict[bytes, bytes], library: bytes) -> dict[bytes, bytes]:
        """With the variables that all jobs get, whatever they run in."""
        composed.setdefault(b"PYTHONUNBUFFERED", b"1")
        python_path = composed.get(b"PYTHONPATH", b"")
        composed[b"PYTHONPATH"] = python_path + b":" + library if python_path else library
        composed.update(
            {
                b"RUNYARD_NODE_RANK": b"0",
                b"RUNYARD_WORLD_SIZE": b"1",
                b"RUNYARD_OUTPUT_DIR": b"outputs",
            }
        )
        for name in _OWN_VARIABLES:
            composed.pop(name.encode(), None)
        return composed


def _json(content: Mapping[str, Any]) -> bytes:
    """An object as JSON, ASCII only."""
    return json.dumps(content).encode("ascii")


def _text(data: bytes) -> str:
    """Bytes as JSON carries them: UTF-8, other bytes as escaped surrogates."""
    return data.decode("utf-8", "surrogateescape")
