"""Rules of environments that client, daemon and agent must agree on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runyardpb.v1.environments_pb2 import EnvironmentSpec

_PYTHON_VERSION = re.compile(r"3(?:\.[0-9]{1,2}){0,2}")
_CHANNEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_CHANNEL_URL = re.compile(r"(?:https?://[^\s/]+|file://)(?:/\S*)?")
_CHANNEL_TOKEN = re.compile(r"://[^/\s]+/t/[^/\s]")
_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What stands after the name: conditions on version and build, in conda's grammar.
_CONDITIONS = re.compile(r"(?:[\s=<>!~][\w\s.*+!<>=~,|()-]*)?", re.ASCII)
# Where a name may end; what else comes there belongs to it, and is no name.
_NAME_END = re.compile(r"[\s=<>!~\[]")


def is_python_version(text: str) -> bool:
    """Whether the text names one version of Python 3, of which the last parts may be missing."""
    return _PYTHON_VERSION.fullmatch(text) is not None


def has_credentials(text: str) -> bool:
    """Whether a URL in the text holds a user or a password."""
    return _CREDENTIALS.search(text) is not None


def channel_fault(channel: str) -> str:
    """What is wrong with the name or URL of a conda channel; empty: it can be asked."""
    if has_credentials(channel) or _CHANNEL_TOKEN.search(channel):
        # The URL itself is not repeated: it would stand in logs.
        return "holds credentials, which would be stored"
    if channel in ("defaults", "nodefaults"):
        return f"{channel!r} stands for no channel here; name those meant, such as conda-forge"
    if _CHANNEL_NAME.fullmatch(channel) or _CHANNEL_URL.fullmatch(channel):
        return ""
    return f"{channel[:100]!a} is no channel; give a name, https://… or file:///…"


def match_spec_channel(text: str) -> str:
    """The channel that a match spec names; empty where any will do."""
    return text.strip().rpartition("::")[0]


def match_spec_name(text: str) -> str:
    """The package that a match spec names, as it is written there."""
    rest = text.strip().rpartition("::")[2]
    end = _NAME_END.search(rest)
    return rest[: end.start()] if end else rest


def match_spec_fault(text: str) -> str:
    """What is wrong with conda's "channel::name=1.2=build" or "name>=1,<2"; empty: nothing."""
    channel, is_of_channel, rest = text.strip().rpartition("::")
    if is_of_channel and (fault := channel_fault(channel)):
        return fault
    name = match_spec_name(rest)
    if not _PACKAGE_NAME.fullmatch(name):
        return (
            f"{name[:100]!a} is no name of a conda package, which has only letters, digits,"
            " '_', '.' and '-'"
        )
    if not _CONDITIONS.fullmatch(rest[len(name) :]):
        return f"{text[:100]!a} is not served; write it as name, name=1.2 or name>=1.2,<2"
    return ""


def spec_hash(spec: EnvironmentSpec) -> str:
    """The hash by which an environment's specification is known: the same content has the same.

    It is the digest of the canonical (deterministic) encoding without the path of the interpreter
    to build on: a lock's platform names the Python, and the path may differ between callers who
    ask for the same packages.
    """
    hashed = type(spec)()
    hashed.CopyFrom(spec)
    _clear_base_interpreter(hashed)
    return _digest(hashed)


def packages_hash(spec: EnvironmentSpec) -> str:
    """The hash that locks of a specification are kept under: of what there is to resolve.

    Variables of jobs and how a container is run change nothing of it.
    """
    hashed = type(spec)()
    hashed.CopyFrom(spec)
    _clear_base_interpreter(hashed)
    del hashed.variables[:]
    if hashed.WhichOneof("backend") == "docker":
        for name in ("interpreter_path", "shm_bytes", "network", "mounts", "arguments"):
            hashed.docker.ClearField(name)
    return _digest(hashed)


def _clear_base_interpreter(spec: EnvironmentSpec) -> None:
    """Takes out where the Python to build on lies."""
    if spec.WhichOneof("backend") == "pip":
        spec.pip.ClearField("base_interpreter_path")


def _digest(spec: EnvironmentSpec) -> str:
    from runyard_contract.digest import digest_bytes

    return digest_bytes(spec.SerializeToString(deterministic=True))


def lock_hash(platform: str, text: str) -> str:
    """The hash of a lock, under which every node knows what is built of it."""
    from runyard_contract.digest import digest_bytes

    return digest_bytes((platform + text).encode())
