"""Which build is newer, and which clients a daemon serves: client and daemon decide by this alone.

A build is a version, "0.3.1", or in a checkout the version and its sources,
"0.3.1+src.1795470123456.0a1b2c3d": when the newest of them was changed (milliseconds) and their
fingerprint. A checkout is newer than the release of its version.
"""

from __future__ import annotations

import re

from runyard_contract.errors import VersionMismatch

MINORS_BEFORE = 2
"""A daemon serves clients of its own minor version and of that many before it."""

_BUILD = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\+src\.(?:(\d+)\.)?([0-9a-f]{8}))?")
_Key = tuple[int, int, int, int, str]


def is_newer(build: str, other: str) -> bool:
    """Whether a build comes after another. What is no build comes before all."""
    return _key(build) > _key(other)


def serves(daemon: str, client: str) -> bool:
    """Whether a daemon of a build serves clients of another.

    Clients of its own minor version, whatever their patch, and of the two before; of its own
    version no client of later sources, which may speak of what it does not know.
    """
    its, theirs = _key(daemon), _key(client)
    if its[:3] == theirs[:3]:
        return theirs <= its
    return its[0] == theirs[0] and its[1] - MINORS_BEFORE <= theirs[1] <= its[1]


def mismatch(daemon: str, client: str) -> VersionMismatch:
    """The error for a client that a daemon does not serve; it names what to upgrade."""
    if is_newer(client, daemon):
        message = f"the daemon is runyard {daemon}, older than this client, {client}"
        hint = (
            f"upgrade the daemon: install runyard {_release(client)} where it runs and start it "
            "again; active runs go on"
        )
    else:
        message = f"the daemon is runyard {daemon}, which does not serve clients of {client}"
        hint = f"upgrade this client with `pip install runyard=={_release(daemon)}`"
    return VersionMismatch(message, hint=hint, daemon=daemon, client=client)


def _key(build: str) -> _Key:
    """What builds are ordered by."""
    match = _BUILD.fullmatch(build)
    if match is None:
        return (-1, -1, -1, -1, "")
    major, minor, patch, changed_ms, fingerprint = match.groups()
    # A release has no fingerprint, and comes before every checkout of its version.
    return (int(major), int(minor), int(patch), int(changed_ms or 0), fingerprint or "")


def _release(build: str) -> str:
    """The version that a build is of."""
    return build.partition("+")[0]
