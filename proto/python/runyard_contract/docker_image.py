"""Rules of container images that client, daemon and agent must agree on."""

from __future__ import annotations

import posixpath
import re

DOCKERFILE_BYTES = 256 << 10
OWN_FOLDER = "/runyard"
"""Where in a container runyard itself mounts what a job needs."""

# The grammar of references: https://pkg.go.dev/github.com/distribution/reference
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[\w][\w.-]{{0,127}})?"
    r"(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FROM = re.compile(r"^\s*FROM\s+\S", re.IGNORECASE | re.MULTILINE)


def image_fault(reference: str) -> str:
    """What is wrong with the name of an image; empty: an engine can be asked for it."""
    if _ID.fullmatch(reference):
        return ""
    if len(reference) > 512 or not _REFERENCE.fullmatch(reference):
        return (
            f"{reference[:100]!a} names no image; write NAME, NAME:TAG or HOST/NAME@sha256:…,"
            " in lower case but for the tag"
        )
    return ""


def dockerfile_fault(text: str) -> str:
    """What is wrong with a Dockerfile at first sight; empty: an engine can be asked to build it."""
    size_bytes = len(text.encode("utf-8", "replace"))
    if size_bytes > DOCKERFILE_BYTES:
        return f"has {size_bytes} bytes; at most {DOCKERFILE_BYTES}"
    if "\0" in text:
        return "holds a NUL byte"
    if not _FROM.search(text):
        return "has no FROM, with which a Dockerfile begins"
    return ""


def network_fault(network: str) -> str:
    """What is wrong with the name of a network; empty: an engine can be asked for it."""
    if _NETWORK.fullmatch(network):
        return ""
    return f"{network[:100]!a} names no network; give bridge, host, none or a network's name"


def mount_fault(source: bytes, target: str) -> str:
    """What is wrong with a bind mount; empty: the node can be asked for it."""
    if not source.startswith(b"/") or b"\0" in source:
        return f"{source[:100].decode('utf-8', 'backslashreplace')!a} is no absolute path"
    if not target.startswith("/") or "\0" in target:
        return f"{target[:100]!a} is no absolute path in the container"
    normal = posixpath.normpath(target)
    if normal == "/" or normal == OWN_FOLDER or normal.startswith(f"{OWN_FOLDER}/"):
        return f"{target[:100]!a} is where runyard needs the container as it is"
    return ""
