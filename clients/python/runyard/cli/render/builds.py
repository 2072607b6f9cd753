"""Where an environment is built: node, size, age, last use, hits; and what is sealed of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runyard.cli.render.amounts import count_text, local_time, message_time, utc_time
from runyard.snapshot.limits import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runyardpb.v1.environments_pb2 import EnvironmentBuild, EnvironmentLock

BUILD_COLUMNS = ("BUILT ON", "SIZE", "BUILT", "LAST USE", "HITS")


def build_cells(builds: Sequence[EnvironmentBuild]) -> tuple[str, ...]:
    """All builds of an environment in a row: sizes and hits together, the newest build and use."""
    if not builds:
        return ("", "", "", "", "")
    made = [time for build in builds if (time := message_time(build, "create_time"))]
    times = [time for build in builds if (time := message_time(build, "last_use_time"))]
    return (
        ", ".join(dict.fromkeys(build.node for build in builds)),
        size_text(sum(build.size_bytes for build in builds)),
        local_time(max(made, default=None)),
        local_time(max(times, default=None)),
        str(sum(build.hits for build in builds)),
    )


def build_text(build: EnvironmentBuild) -> str:
    """One build in a line."""
    return (
        f"{build.node} ({(build.key or build.lock_hash)[:16]}): {size_text(build.size_bytes)},"
        f" built {local_time(message_time(build, 'create_time'))},"
        f" last used {local_time(message_time(build, 'last_use_time'))},"
        f" {count_text(build.hits, 'hit')}"
    )


def build_json(build: EnvironmentBuild) -> dict[str, Any]:
    """One build as scripts read it."""
    return {
        "node": build.node,
        "lock_hash": build.lock_hash,
        "key": build.key or build.lock_hash,
        "size_bytes": build.size_bytes,
        "create_time": utc_time(message_time(build, "create_time")),
        "last_use_time": utc_time(message_time(build, "last_use_time")),
        "hits": build.hits,
    }


def sealed_text(lock: EnvironmentLock) -> str:
    """What is sealed of a lock in a line."""
    sealed = lock.sealed
    origin = f"built on {sealed.node}" if sealed.node else "imported"
    return (
        f"{lock.platform}: {count_text(sealed.file_count, 'file')},"
        f" {size_text(sealed.size_bytes)}, {origin}"
        f" {local_time(message_time(sealed, 'create_time'))}"
    )


def sealed_json(lock: EnvironmentLock) -> dict[str, Any] | None:
    """What is sealed of a lock as scripts read it; None: nothing is."""
    if not lock.HasField("sealed"):
        return None
    sealed = lock.sealed
    return {
        "digest": sealed.root_digest.hex(),
        "file_count": sealed.file_count,
        "size_bytes": sealed.size_bytes,
        "create_time": utc_time(message_time(sealed, "create_time")),
        "node": sealed.node or None,
    }
