"""Source directories without a disk: their manifests and blobs, made from a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.limits import CHUNK_BYTES, CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    encode_chunks,
    encode_directory,
)

Tree = Mapping[str, bytes | tuple[bytes, bool] | str]
"""By path: the bytes of a file, or (bytes, whether it is executable), or the target of a link."""


def encode_tree(tree: Tree) -> tuple[str, dict[str, bytes]]:
    """The root's digest, and all blobs by theirs; those of folders come after what is below."""
    nested: dict[str, Any] = {}
    for path, value in tree.items():
        *parents, name = path.split("/")
        folder = nested
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = value
    blobs: dict[str, bytes] = {}
    return _folder("", nested, blobs).digest, blobs


def store_tree(store: ContentStore, tree: Tree) -> str:
    """Stores a tree; gives its root's digest."""
    digest, blobs = encode_tree(tree)
    store.put_many(blobs.items())
    return digest


def _folder(name: str, nested: dict[str, Any], blobs: dict[str, bytes]) -> DirectoryEntry:
    encoded = encode_directory([_entry(n, value, blobs) for n, value in sorted(nested.items())])
    blobs.update(encoded.blobs)
    return DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)


def _entry(name: str, value: Any, blobs: dict[str, bytes]) -> Entry:
    if isinstance(value, dict):
        return _folder(name, value, blobs)
    if isinstance(value, str):
        return LinkEntry(name, value)
    data, is_executable = value if isinstance(value, tuple) else (value, False)
    is_chunked = len(data) > CHUNKED_ABOVE_BYTES
    content = data
    if is_chunked:
        parts = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
        blobs.update((digest_bytes(part), part) for part in parts)
        content = encode_chunks([(digest_bytes(part), len(part)) for part in parts])
    digest = digest_bytes(content)
    blobs[digest] = content
    return FileEntry(name, digest, len(data), is_executable, is_chunked=is_chunked)
