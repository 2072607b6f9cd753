"""Rules of environments that client, daemon and agent must agree on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runyardpb.v1.environments_pb2 import EnvironmentSpec

_PYTHON_VERSION = re.compile(r"3(?:\.[0-9]{1,2}){0,2}")


def is_python_version(text: str) -> bool:
    """Whether the text names one version of Python 3, of which the last parts may be missing."""
    return _PYTHON_VERSION.fullmatch(text) is not None


def spec_hash(spec: EnvironmentSpec) -> str:
    """The hash by which an environment's specification is known, and its locks are kept.

    It is the digest of the canonical (deterministic) encoding without the path of the interpreter
    to build on: a lock's platform names the Python, and the path may differ between callers who
    ask for the same packages.
    """
    from runyard_contract.digest import digest_bytes

    if spec.WhichOneof("backend") == "pip" and spec.pip.base_interpreter_path:
        hashed = type(spec)()
        hashed.CopyFrom(spec)
        hashed.pip.ClearField("base_interpreter_path")
        spec = hashed
    return digest_bytes(spec.SerializeToString(deterministic=True))


def lock_hash(platform: str, text: str) -> str:
    """The hash of a lock, under which every node knows what is built of it."""
    from runyard_contract.digest import digest_bytes

    return digest_bytes((platform + text).encode())
