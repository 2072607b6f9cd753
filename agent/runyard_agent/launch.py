"""What the supervisor is to execute: the program, its variables, its limits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from runyard_agent.bundles import Bundle
from runyard_agent.environments.protocol import ProvidedEnvironment
from runyard_contract.ids import RunName
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

DEFAULT_GRACE_S = 30.0
DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


def arguments(spec: runs_pb2.RunSpec, python: bytes) -> list[bytes]:
    """The program and its arguments, byte for byte as submitted."""
    if spec.WhichOneof("program") == "command":
        return list(spec.command.argv)
    return [python, os.fsencode(spec.script.path), *spec.script.arguments]


def variables(
    lease: pb.Lease,
    bundle: Bundle,
    environment: ProvidedEnvironment,
    *,
    is_local: bool,
    library: str,
    gpus: Sequence[int],
) -> dict[bytes, bytes]:
    """The job's variables: the caller's (local only), the environment's, the run's, runyard's."""
    spec = lease.spec
    composed: dict[bytes, bytes] = {}
    if is_local:
        composed.update((v.name, v.value) for v in spec.caller_environment)
    composed.update(environment.env)
    chosen = {v.name: v.value for v in spec.environment_variables}
    composed.update(chosen)
    if b"PATH" not in chosen:
        composed[b"PATH"] = _path(composed.get(b"PATH") or DEFAULT_PATH, environment.python)
    if gpus and b"CUDA_VISIBLE_DEVICES" not in chosen:
        composed[b"CUDA_VISIBLE_DEVICES"] = b",".join(b"%d" % index for index in gpus)
    composed.setdefault(b"PYTHONUNBUFFERED", b"1")
    python_path = composed.get(b"PYTHONPATH", b"")
    zip_path = os.fsencode(library)
    composed[b"PYTHONPATH"] = python_path + b":" + zip_path if python_path else zip_path
    name = RunName.parse(lease.ref.run)
    composed.update(
        {
            b"RUNYARD_RUN_ID": name.run.encode(),
            b"RUNYARD_EXPERIMENT": name.experiment.encode(),
            b"RUNYARD_WORKSPACE": name.workspace.encode(),
            b"RUNYARD_ATTEMPT": b"%d" % lease.ref.attempt,
            b"RUNYARD_NODE_RANK": b"0",
            b"RUNYARD_WORLD_SIZE": b"1",
            b"RUNYARD_JOB_DIR": os.fsencode(bundle.job),
            b"RUNYARD_OUTPUT_DIR": b"outputs",
        }
    )
    return composed


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


def supervisor_spec(
    lease: pb.Lease,
    bundle: Bundle,
    argv: Sequence[bytes],
    env: Mapping[bytes, bytes],
    *,
    spool_bound_bytes: int,
    agent: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of spec.json. `agent` is what only the agent reads again, after a restart."""
    spec = lease.spec
    return {
        "run_id": bundle.key.run_id,
        "attempt": lease.ref.attempt,
        "epoch": lease.ref.epoch,
        "argv": [_text(item) for item in argv],
        "env": {_text(name): _text(value) for name, value in env.items()},
        "cwd": bundle.work,
        "merge_stderr": spec.merge_stderr,
        "grace_s": grace_s(spec),
        "max_duration_s": seconds(spec.max_duration) if spec.HasField("max_duration") else None,
        "spool_bound_bytes": spool_bound_bytes,
        "agent": dict(agent),
    }


def _text(data: bytes) -> str:
    """Bytes as JSON carries them: UTF-8, other bytes as escaped surrogates."""
    return data.decode("utf-8", "surrogateescape")
