"""Options of `docker run` that a run may bring along, as what the engine's API calls them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runyard_contract.nearest import nearest

Values = dict[str, Any]


class DockerArgumentInvalid(ValueError):
    """An option that is unknown, not allowed or of a wrong value; `message` says which and why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """What options say, in the words of the engine's request to create a container.

    Args:
        config: fields of the request itself, such as "Env" and "Hostname".
        host: fields of its "HostConfig", such as "ShmSize" and "Mounts".
    """

    config: Values = field(default_factory=dict)
    host: Values = field(default_factory=dict)

    def bind_sources(self) -> list[str]:
        """Paths on the node that have to exist."""
        mounts = self.host.get("Mounts", ())
        return [mount["Source"] for mount in mounts if mount["Type"] == "bind"]


_Store = Callable[[DockerOptions, str], None]
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_VOLUME_MODES = frozenset(
    {"rw", "ro", "z", "Z", "nocopy", "cached", "delegated", "consistent", "private", "rprivate"}
    | {"shared", "rshared", "slave", "rslave"}
)


def size_bytes(text: str) -> int:
    """A size as Docker writes it: "512m", "1.5g", "1073741824". ValueError for anything else."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError('not a size such as "512m" or "8g"')
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _size_or_unlimited(text: str) -> int:
    return -1 if text == "-1" else size_bytes(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("not a whole number") from None


def _nano_cpus(text: str) -> int:
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0 < cpus < 1e6:
        raise ValueError('not a number of cores such as "1.5"')
    return round(cpus * 1e9)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError("not NAME=VALUE")
    return name, value


def _one(name: str, convert: Callable[[str], Any] = str, *, in_host: bool = True) -> _Store:
    """The last one counts."""

    def store(options: DockerOptions, text: str) -> None:
        (options.host if in_host else options.config)[name] = convert(text)

    return store


def _many(name: str, convert: Callable[[str], Any] = str) -> _Store:
    """Each one is added."""

    def store(options: DockerOptions, text: str) -> None:
        options.host.setdefault(name, []).append(convert(text))

    return store


def _map(name: str, *, in_host: bool = True) -> _Store:
    """Names with values."""

    def store(options: DockerOptions, text: str) -> None:
        key, value = _pair(text)
        (options.host if in_host else options.config).setdefault(name, {})[key] = value

    return store


def _add_variable(options: DockerOptions, text: str) -> None:
    name, value = _pair(text)
    options.config.setdefault("Env", []).append(f"{name}={value}")


def _add_label(options: DockerOptions, text: str) -> None:
    name, _, value = text.partition("=")
    if name.startswith("runyard."):
        raise ValueError("labels that begin with runyard. are runyard's own")
    options.config.setdefault("Labels", {})[name] = value


def _add_tmpfs(options: DockerOptions, text: str) -> None:
    path, _, mode = text.partition(":")
    options.host.setdefault("Tmpfs", {})[_absolute(path)] = mode


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f'"{path}" is not an absolute path of the container')
    return path


def _network(text: str) -> str:
    if text.startswith("container:"):
        raise ValueError("the network of another container can't be had")
    return text


def _security(text: str) -> str:
    name, _, value = text.partition("=")
    if name == "seccomp" and value not in ("unconfined", "builtin"):
        raise ValueError("profiles in files are not read; seccomp=unconfined can be given")
    return text


def _ulimit(text: str) -> Values:
    name, values = _pair(text)
    soft, _, hard = values.partition(":")
    return {"Name": name, "Soft": _integer(soft), "Hard": _integer(hard or soft)}


def _device(text: str) -> Values:
    source, *rest = text.split(":")
    if len(rest) > 2 or not source.startswith("/"):
        raise ValueError("not PATH, PATH:PATH or PATH:PATH:rwm")
    target = rest[0] if rest and rest[0].startswith("/") else source
    permissions = rest[-1] if rest and not rest[-1].startswith("/") else "rwm"
    return {
        "PathOnHost": source,
        "PathInContainer": target,
        "CgroupPermissions": permissions,
    }


def _gpus(text: str) -> Values:
    request: Values = {"Driver": "", "Capabilities": [["gpu"]]}
    chosen = text.strip('"')
    if chosen == "all":
        return request | {"Count": -1}
    if chosen.isdecimal():
        return request | {"Count": int(chosen)}
    if chosen.startswith("device="):
        return request | {"DeviceIDs": chosen.removeprefix("device=").split(",")}
    raise ValueError('not "all", a number, or "device=0,2"')


def _volume(text: str) -> Values:
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ValueError("not SOURCE:TARGET or SOURCE:TARGET:ro")
    modes = parts[2].split(",") if len(parts) == 3 else []
    for mode in modes:
        if mode not in _VOLUME_MODES:
            raise ValueError(f'"{mode}" is none of its modes, such as ro')
    source, target = parts[0], _absolute(parts[1])
    mount: Values = {"Source": source, "Target": target, "ReadOnly": "ro" in modes}
    if source.startswith("/"):
        propagation = [mode for mode in modes if mode.lstrip("r") in _PROPAGATIONS]
        options = {"BindOptions": {"Propagation": propagation[0]}} if propagation else {}
        return {"Type": "bind", **mount, **options}
    if not _VOLUME_NAME.fullmatch(source):
        raise ValueError(f'"{source}" is neither an absolute path of the node nor a volume')
    return {"Type": "volume", **mount}


_PROPAGATIONS = frozenset({"private", "shared", "slave"})
_MOUNT_KEYS = {
    **dict.fromkeys(("source", "src"), "Source"),
    **dict.fromkeys(("target", "destination", "dst"), "Target"),
    **dict.fromkeys(("readonly", "ro"), "ReadOnly"),
    "type": "Type",
    "bind-propagation": "Propagation",
    "tmpfs-size": "SizeBytes",
    "tmpfs-mode": "Mode",
}


def _mount(text: str) -> Values:
    mount: Values = {"Type": "volume", "Source": "", "ReadOnly": False}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        name = _MOUNT_KEYS.get(key)
        if name is None:
            raise ValueError(f'"{key}" is none of its keys{_meant(key, _MOUNT_KEYS)}')
        if name == "ReadOnly":
            mount[name] = _switch(value) if separator else True
        elif name == "Propagation":
            mount["BindOptions"] = {name: value}
        elif name in ("SizeBytes", "Mode"):
            number = size_bytes(value) if name == "SizeBytes" else int(value, 8)
            mount.setdefault("TmpfsOptions", {})[name] = number
        else:
            mount[name] = value
    if mount["Type"] not in ("bind", "volume", "tmpfs"):
        raise ValueError(f'type "{mount["Type"]}" is none of bind, volume, tmpfs')
    _absolute(mount.get("Target", ""))
    if mount["Type"] == "bind" and not mount["Source"].startswith("/"):
        raise ValueError(f'source "{mount["Source"]}" is not an absolute path of the node')
    return mount


def _switch(text: str) -> bool:
    if text not in _SWITCHES:
        raise ValueError('neither "true" nor "false"')
    return _SWITCHES[text]


_VALUES: dict[str, _Store] = {
    "--add-host": _many("ExtraHosts"),
    "--cap-add": _many("CapAdd"),
    "--cap-drop": _many("CapDrop"),
    "--cgroup-parent": _one("CgroupParent"),
    "--cpu-shares": _one("CpuShares", _integer),
    "--cpus": _one("NanoCpus", _nano_cpus),
    "--cpuset-cpus": _one("CpusetCpus"),
    "--cpuset-mems": _one("CpusetMems"),
    "--device": _many("Devices", _device),
    "--dns": _many("Dns"),
    "--dns-search": _many("DnsSearch"),
    "--env": _add_variable,
    "--gpus": _many("DeviceRequests", _gpus),
    "--group-add": _many("GroupAdd"),
    "--hostname": _one("Hostname", in_host=False),
    "--ipc": _one("IpcMode"),
    "--label": _add_label,
    "--memory": _one("Memory", size_bytes),
    "--memory-reservation": _one("MemoryReservation", size_bytes),
    "--memory-swap": _one("MemorySwap", _size_or_unlimited),
    "--mount": _many("Mounts", _mount),
    "--network": _one("NetworkMode", _network),
    "--oom-score-adj": _one("OomScoreAdj", _integer),
    "--pids-limit": _one("PidsLimit", _integer),
    "--runtime": _one("Runtime"),
    "--security-opt": _many("SecurityOpt", _security),
    "--shm-size": _one("ShmSize", size_bytes),
    "--sysctl": _map("Sysctls"),
    "--tmpfs": _add_tmpfs,
    "--ulimit": _many("Ulimits", _ulimit),
    "--uts": _one("UTSMode"),
    "--volume": _many("Mounts", _volume),
}
_FLAGS = {"--init": "Init", "--privileged": "Privileged", "--read-only": "ReadonlyRootfs"}
_SHORT = {
    "-c": "--cpu-shares",
    "-e": "--env",
    "-h": "--hostname",
    "-l": "--label",
    "-m": "--memory",
    "-v": "--volume",
    "--net": "--network",
}
_REFUSED = {
    **dict.fromkeys(("-d", "--detach"), "runyard waits for the job"),
    **dict.fromkeys(("-i", "--interactive", "-t", "--tty", "-it"), "jobs have no terminal"),
    **dict.fromkeys(("-u", "--user"), "jobs run as the agent's user, who owns their outputs"),
    **dict.fromkeys(("-w", "--workdir"), "jobs start in the run's working folder"),
    **dict.fromkeys(("-a", "--attach", "--log-driver", "--log-opt"), "runyard takes the output"),
    **dict.fromkeys(("-p", "--publish", "-P", "--publish-all"), 'use "--network=host"'),
    "--cidfile": "see the run's record for its container",
    "--entrypoint": "the run's command is what is started",
    "--env-file": 'give each variable as "--env=NAME=VALUE"',
    "--name": "runyard names containers by their runs",
    "--oom-kill-disable": "a run over its limit would hang for ever",
    "--pid": "all that a run leaves behind ends with its own process namespace",
    "--platform": "the image decides that",
    "--pull": "runyard pulls the image while it prepares the run",
    "--restart": 'use the run\'s own "max_retries"',
    "--rm": "runyard removes the container itself",
    "--stop-signal": "jobs are stopped with SIGTERM",
    "--stop-timeout": "the run's grace period says that",
    "--userns": "jobs run as the agent's user, who owns their outputs",
    "--volumes-from": 'name the folders with "--volume"',
}
"""Options that Docker has and runs must not bring, with the reason."""


def parse_docker_arguments(arguments: Sequence[str]) -> DockerOptions:
    """What the options say. Each is one item ("--shm-size=1g"), or two ("--shm-size", "1g").

    Raises DockerArgumentInvalid for the first that is wrong.
    """
    options = DockerOptions()
    items = iter(arguments)
    for item in items:
        name, separator, value = item.partition("=")
        if not name.startswith("-"):
            raise DockerArgumentInvalid(f'"{item}" belongs to no option of docker run')
        name = _SHORT.get(name, name)
        if name in _FLAGS:
            text = value if separator else "true"
            _apply(_one(_FLAGS[name], _switch), options, name, text)
            continue
        store = _VALUES.get(name)
        if store is None:
            raise DockerArgumentInvalid(_refusal(name))
        text = value if separator else next(items, "")
        if not text or (not separator and text.startswith("--")):
            raise DockerArgumentInvalid(f"{name} has no value: write {name}=VALUE as one item")
        _apply(store, options, name, text)
    return options


def _apply(store: _Store, options: DockerOptions, name: str, text: str) -> None:
    try:
        store(options, text)
    except ValueError as error:
        raise DockerArgumentInvalid(f'{name} "{text}": {error}') from None


def _refusal(name: str) -> str:
    """Why an option is not taken."""
    if name in _REFUSED:
        return f"{name} can't be given: {_REFUSED[name]}"
    known = [*_VALUES, *_FLAGS]
    return f"{name} is no option that runyard passes on to docker{_meant(name, known)}"


def _meant(name: str, known: Sequence[str] | dict[str, str]) -> str:
    near = nearest(name, list(known))
    return f"; did you mean {near}?" if near else ""
