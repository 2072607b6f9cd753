"""What the supervisor is to execute for a run in a container: its client, and the engine's request.

Inside, everything of the run is below /runyard, wherever the node keeps it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import runyard_agent
from runyard_agent.bundles import Bundle
from runyard_agent.container.report import SIGNALS
from runyard_agent.container.used import USED
from runyard_agent.environments.protocol import Container, EnvironmentFailed
from runyard_agent.supervisor.cgroup import ADVICE, UNKEPT, Limits, too_large_here
from runyard_agent.supervisor.streams import NAMES, fifo_path
from runyard_contract.docker_arguments import DockerArgumentInvalid, parse_docker_arguments
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

WORK = "/runyard/work"
JOB = "/runyard/job"
LIBRARY = "/runyard/runyard_job.zip"
HOME = "/tmp"  # noqa: S108  of the container, which has it to itself
"""Home of a user that the image does not know."""
KEPT_OF_THE_CALLER = frozenset(
    {"TZ", "LANG", "LANGUAGE", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"}
)
"""Variables that say nothing of the caller's file system; also in small letters, and LC_*."""
_MAIN = "import sys; sys.path.append(sys.argv[1]); from runyard_agent.container.{} import main; "
_FOLDER = str(Path(runyard_agent.__file__).parent.parent)
FIRST_PROCESS = r"""
exec 0</dev/null 1<>/runyard/stdout
if [ -p /runyard/stderr ]; then exec 2<>/runyard/stderr; else exec 2>&1; fi
if [ -n "$1" ]; then
  case ":$PATH:" in *":$1:"*) ;; *) PATH=$1:$PATH; export PATH;; esac
fi
shift
case "$1" in */*) [ -x "$1" ];; *) command -v "$1" >/dev/null;; esac || {
  if [ -e "$1" ]; then echo 13; else echo 2; fi >/runyard/signals
  exit 127
}
{ read -r name <>/runyard/signals; kill -"$name" -1; kill -CONT -1; } 2>/dev/null &
exec 3>&2 2>/dev/null
(exec 2>&3 3>&-; exec "$@")
code=$?
cd /sys/fs/cgroup && for file in cpu.stat memory.peak \
  cpu*/cpuacct.usage_user cpu*/cpuacct.usage_sys memory/memory.max_usage_in_bytes
do
  while read -r name value; do echo "${file##*/} $name $value"; done <"$file"
done >/runyard/used
exit $code
"""
"""The container's first process: opens the run's pipes, passes SIGTERM to all others and waits.

Its own words, such as "Terminated", are no output of the job. Of a program that can't be executed
it says the errno, back through the FIFO of signals. What the container has used until then it
copies out of its control group, which is gone with it.

The program is not the first process itself: the kernel keeps signals from that one unless it
handles them, and nobody would reap orphans. It is not in the background either, where a shell has
it ignore SIGINT.
"""


def client_arguments(bundle: Bundle, module: str) -> list[str]:
    """The command for `client` or `ending` of a bundle."""
    code = _MAIN.format(module) + "main(sys.argv[2])"
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", code, _FOLDER, bundle.path]


def container_name(lease: pb.Lease, bundle: Bundle) -> str:
    """The name of an attempt's container. The engine gives it once: nothing is started twice."""
    return f"runyard-{bundle.key.run_id}-{lease.ref.attempt}-{lease.ref.epoch}"


def execution_facts(lease: pb.Lease, bundle: Bundle, container: Container) -> dict[str, str]:
    """What a run's record says of how it was executed."""
    facts = {"container": container_name(lease, bundle)}
    if not container.shell:
        facts["output"] = "engine log"
    if _limits(lease.spec).controllers:
        facts["limits"] = "container"
    return facts


def request(
    lease: pb.Lease,
    bundle: Bundle,
    container: Container,
    argv: Sequence[bytes],
    variables: Mapping[bytes, bytes],
    gpus: tuple[int, ...],
    library: str,
) -> dict[str, Any]:
    """The engine's request to create the container. Raises EnvironmentFailed."""
    try:
        options = parse_docker_arguments(container.options.arguments)
    except DockerArgumentInvalid as error:
        raise EnvironmentFailed(error.message, "correct the environment's arguments") from error
    command = [text_of(item, "an argument") for item in argv]
    program = os.path.dirname(command[0]) if os.path.isabs(command[0]) else ""
    chosen = {v.name for v in lease.spec.environment_variables}
    first = "" if b"PATH" in chosen else program
    if container.shell:
        command = [container.shell, "-c", FIRST_PROCESS, "sh", first, *command]
    own = [f"{text_of(k, 'a variable')}={text_of(v, 'a variable')}" for k, v in variables.items()]
    labels = {
        "runyard.run": bundle.key.run_id,
        "runyard.attempt": str(lease.ref.attempt),
        "runyard.epoch": str(lease.ref.epoch),
    }
    config = dict(options.config)
    config.update(
        Image=container.image,
        Entrypoint=command,
        Cmd=[],
        WorkingDir=WORK,
        User=f"{os.geteuid()}:{os.getegid()}",
        Env=[*config.get("Env", ()), *own],
        Labels={**config.get("Labels", {}), **labels},
        Tty=False,
        OpenStdin=False,
        HostConfig=_host_config(lease.spec, bundle, container, dict(options.host), gpus, library),
    )
    return config


def _host_config(
    spec: runs_pb2.RunSpec,
    bundle: Bundle,
    container: Container,
    host: dict[str, Any],
    gpus: tuple[int, ...],
    library: str,
) -> dict[str, Any]:
    options = container.options
    if options.shm_bytes:
        host["ShmSize"] = options.shm_bytes
    if options.network:
        host["NetworkMode"] = options.network
    limits = _limits(spec)
    if why := too_large_here(limits):
        raise EnvironmentFailed(UNKEPT + why, ADVICE)
    if limits.cpu_millicores:
        host["NanoCpus"] = limits.cpu_millicores * 1_000_000
    if limits.memory_bytes:
        host["Memory"] = host["MemorySwap"] = limits.memory_bytes
    if gpus:
        ids = [str(index) for index in gpus]
        gpu_request = {"Driver": "", "DeviceIDs": ids, "Capabilities": [["gpu"]]}
        host["DeviceRequests"] = [gpu_request]
    mounts = [
        _bind(text_of(mount.source, "a mount"), mount.target, mount.is_read_only)
        for mount in options.mounts
    ]
    host["Mounts"] = [*host.get("Mounts", ()), *mounts]
    for mount in host["Mounts"]:
        if mount["Type"] == "bind" and not os.path.exists(mount["Source"]):
            raise EnvironmentFailed(
                f'"{mount["Source"]}", which is to be mounted at {mount["Target"]}, does not exist '
                "on the node",
                "make it there, or correct the environment's mounts",
                {"path": mount["Source"]},
            )
    host["Mounts"] += _own_mounts(spec, bundle, container, library)
    host["GroupAdd"] = [*host.get("GroupAdd", ()), *(str(group) for group in os.getgroups())]
    host["AutoRemove"] = False
    host["RestartPolicy"] = {"Name": "no"}
    if container.shell:
        host["LogConfig"] = {"Type": "none", "Config": {}}
    else:
        # All of it in one file: what an engine's own setting drops could not be read again.
        host["LogConfig"] = {"Type": "json-file", "Config": {"max-size": "1000g"}}
        host["Init"] = True
    return host


def _limits(spec: runs_pb2.RunSpec) -> Limits:
    return Limits(spec.limits.cpu_millicores, spec.limits.memory_bytes)


def _own_mounts(
    spec: runs_pb2.RunSpec, bundle: Bundle, container: Container, library: str
) -> list[dict[str, Any]]:
    mounts = [_bind(bundle.work, WORK), _bind(bundle.job, JOB), _bind(library, LIBRARY, True)]
    if container.shell:
        mounts.append(_bind(f"{bundle.path}/{SIGNALS}", "/runyard/signals"))
        mounts.append(_bind(f"{bundle.path}/{USED}", "/runyard/used"))
        for name in NAMES[: 1 if spec.merge_stderr else 2]:
            mounts.append(_bind(fifo_path(bundle.path, name), f"/runyard/{name}"))
    return mounts


def _bind(source: str, target: str, is_read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": is_read_only}


def caller_variables(spec: runs_pb2.RunSpec) -> dict[bytes, bytes]:
    """Of the caller's variables those that mean something in a container."""
    return {v.name: v.value for v in spec.caller_environment if _is_kept(v.name)}


def _is_kept(name: bytes) -> bool:
    upper = name.decode("ascii", "replace").upper()
    return upper in KEPT_OF_THE_CALLER or name.startswith(b"LC_")


def text_of(data: bytes, what: str) -> str:
    """Bytes as the engine takes them, which is as text. EnvironmentFailed for others."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise EnvironmentFailed(
            f"{what} of the run is not UTF-8, which the container engine does not take: {data!r}",
            "use UTF-8, or run it without a container",
        ) from None
