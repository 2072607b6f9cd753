"""The stat index of a source directory on disk: the tree of the last scan and its notes.

One file for each source directory, in the data directory's `client` folder. It is only a cache: a
file that is damaged, foreign or of another format is as good as none, and a new one is written.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runyard.snapshot.stat_columns import SIGNATURE_FIELDS, StatColumns
from runyard.snapshot.tree import Tree
from runyard_contract.digest import DIGEST_BYTES, digest_bytes
from runyard_contract.paths import atomic_write

_MAGIC = b"RYI\x01"
_HEADER_LENGTH_BYTES = 4


class _Damaged(Exception):
    """The file is no index of this format."""


class Index:
    """What is remembered of a source directory; nothing by default.

    `large_left_out`, `skipped` (no files, folders or links) and `secrets` (files whose names say
    that they hold credentials) are what the last scan said of it, by path.
    """

    # No dataclass: `dataclasses` and what it compiles are 2 ms of each command's start.
    __slots__ = ("large_left_out", "secrets", "skipped", "tree")

    def __init__(
        self,
        tree: Tree | None = None,
        large_left_out: Mapping[str, str] | None = None,
        skipped: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.tree = Tree() if tree is None else tree
        self.large_left_out = dict(large_left_out or {})
        self.skipped = dict(skipped or {})
        self.secrets = list(secrets)


def index_file(folder: Path, source: str) -> Path:
    """Where the index of this source directory (its real path) is kept."""
    return folder / f"{digest_bytes(os.fsencode(source))[:32]}.index"


def load(path: Path, source: str) -> Index | None:
    """The index in this file, or None where there is none that can be used."""
    try:
        return _decode(path.read_bytes(), source)
    except (OSError, _Damaged, ValueError, KeyError, TypeError):
        return None


def save(path: Path, source: str, index: Index) -> None:
    """Replaces the index file; a reader sees the old or the new one. Not synced: it is a cache."""
    atomic_write(path, _encode(index, source), sync=False)


def stored_digest(path: Path, store: str) -> str:
    """The digest of the snapshot that a store (an address) was last seen to hold whole, or ""."""
    try:
        return str(json.loads(_stores_file(path).read_bytes())[store])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def remember_stored(path: Path, store: str, root_digest: str) -> None:
    """Notes that a store holds this snapshot. Only the last store is remembered."""
    data = json.dumps({store: root_digest}).encode()
    atomic_write(_stores_file(path), data, sync=False)


def _stores_file(path: Path) -> Path:
    """The file beside an index that says who has its snapshot: small, so written often."""
    return path.with_suffix(".stored")


def _encode(index: Index, source: str) -> bytes:
    """The bytes of an index file: magic, header (JSON), columns, digest of all before it."""
    tree = index.tree
    paths = b"\0".join(tree.paths)
    directory_paths = b"\0".join(tree.directory_paths)
    header = json.dumps(
        {
            "source": source,
            "entries": len(tree.paths),
            "directories": len(tree.directory_paths),
            "paths_bytes": len(paths),
            "directory_paths_bytes": len(directory_paths),
            "root_signature": tree.root_signature,
            "root_digest": tree.root_digest.hex(),
            "targets": list(tree.targets.items()),
            "large_left_out": index.large_left_out,
            "skipped": index.skipped,
            "secrets": index.secrets,
        }
    ).encode()
    pieces = [
        _MAGIC,
        len(header).to_bytes(_HEADER_LENGTH_BYTES, "little"),
        header,
        paths,
        directory_paths,
        bytes(tree.kinds),
        bytes(tree.digests),
        tree.sizes.tobytes(),
        *(column.tobytes() for column in tree.signatures.arrays),
        tree.entry_counts.tobytes(),
        tree.child_counts.tobytes(),
        tree.file_counts.tobytes(),
        bytes(tree.rules),
    ]
    body = b"".join(pieces)
    return body + bytes.fromhex(digest_bytes(body))


class _Reader:
    """Takes pieces off the front of the columns."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def take(self, size_bytes: int) -> memoryview:
        """The next bytes, all of them."""
        piece = self._data[self._position : self._position + size_bytes]
        if len(piece) != size_bytes:
            raise _Damaged
        self._position += size_bytes
        return piece

    def numbers(self, count: int) -> array[int]:
        """The next whole numbers."""
        column = array("Q")
        column.frombytes(self.take(count * 8))
        return column

    def names(self, size_bytes: int, count: int) -> list[bytes]:
        """The next texts."""
        names = bytes(self.take(size_bytes)).split(b"\0") if count else []
        if len(names) != count:
            raise _Damaged
        return names


def _decode(data: bytes, source: str) -> Index:
    """The index in these bytes; `_Damaged` (or an error of a conversion) where it is not one."""
    view = memoryview(data)
    body, digest = view[:-DIGEST_BYTES], view[-DIGEST_BYTES:]
    start = len(_MAGIC) + _HEADER_LENGTH_BYTES
    if data[: len(_MAGIC)] != _MAGIC or digest_bytes(body) != digest.hex():
        raise _Damaged
    length = int.from_bytes(body[len(_MAGIC) : start], "little")
    header: dict[str, Any] = json.loads(bytes(body[start : start + length]))
    if header["source"] != source:
        raise _Damaged
    entries, directories = int(header["entries"]), int(header["directories"])
    reader = _Reader(body[start + length :])
    tree = Tree()
    tree.paths = reader.names(header["paths_bytes"], entries)
    tree.directory_paths = reader.names(header["directory_paths_bytes"], directories)
    tree.kinds = bytearray(reader.take(entries))
    tree.digests = bytearray(reader.take(entries * DIGEST_BYTES))
    tree.sizes = reader.numbers(entries)
    tree.signatures = StatColumns([reader.numbers(entries) for _ in range(SIGNATURE_FIELDS)])
    tree.entry_counts = reader.numbers(directories)
    tree.child_counts = reader.numbers(directories)
    tree.file_counts = reader.numbers(directories)
    tree.rules = bytearray(reader.take(directories * DIGEST_BYTES))
    a, b, c, d, e, f = header["root_signature"]
    tree.root_signature = (a, b, c, d, e, f)
    tree.root_digest = bytes.fromhex(header["root_digest"])
    tree.targets = {int(entry): str(target) for entry, target in header["targets"]}
    tree.seal()
    return Index(
        tree=tree,
        large_left_out=header["large_left_out"],
        skipped=header["skipped"],
        secrets=header["secrets"],
    )
