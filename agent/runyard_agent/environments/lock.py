"""Locks: what an environment was resolved to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_contract.environment_spec import lock_hash
from runyardpb.v1.environments_pb2 import EnvironmentLock

_ENTRY = re.compile(r"^[A-Za-z0-9][^\n]*", re.MULTILINE)
_HASH = re.compile(r"^\s+--hash=", re.MULTILINE)


def make_lock(platform: str, text: str, at_unix_ns: int) -> EnvironmentLock:
    """A lock of this text for a platform such as "linux-x86_64-cp311"."""
    lock = EnvironmentLock(platform=platform, text=text, hash=lock_hash(platform, text))
    lock.create_time.FromNanoseconds(at_unix_ns)
    return lock


def lock_for(platform: str, locks: Iterable[EnvironmentLock]) -> EnvironmentLock | None:
    """The lock for this platform among those that the daemon keeps, or None.

    Raises EnvironmentFailed for one that is not what its hash says.
    """
    for lock in locks:
        if lock.platform != platform:
            continue
        if lock.hash != lock_hash(lock.platform, lock.text):
            raise EnvironmentFailed(
                f"the lock that is kept for this environment ({lock.hash[:16]}) is damaged",
                "change the environment's packages, so that it is resolved again",
                {"lock": lock.hash, "platform": platform},
            )
        return lock
    return None


def packages(text: str) -> int:
    """Number of packages that a lock text pins."""
    return len(_ENTRY.findall(text))


def is_hashed(text: str) -> bool:
    """Whether every package has a hash. One from a git repository has none: its commit pins it."""
    entries = _ENTRY.split(text)[1:]
    return all(_HASH.search(rest) for rest in entries)
