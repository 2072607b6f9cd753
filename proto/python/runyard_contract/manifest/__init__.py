"""Merkle manifests: a directory as bytes, in one canonical encoding.

The same entries always give the same bytes, so the digest of a manifest names the directory's
whole content, and what two snapshots share is stored and sent once. A blob of this module is one of

* a directory: its entries, sorted by the UTF-8 bytes of their names;
* an index: the parts (directories) of a directory with over 512 entries;
* a chunk list: the chunks of a file over 8 MiB (its own rule, see `chunks`).

Every blob starts with `RYM`, the format number and its kind. Integers are little-endian. The
decoder takes exactly what the encoder writes: order, ranges, counts and the end are checked, before
anything is allocated for them, and whatever is wrong raises ManifestInvalid (UnsafePath for a name,
PathCollision for two names that are one on some file system).

Where a large directory is split depends on its names, not on its positions: an entry begins a new
part when the digest of its name says so (1 in 128), once the part has 64 entries, and at the
latest after 512. An entry that is added, changed or removed so rewrites its own part, rarely the
next, and the index; parts of a fixed count would all shift.
"""

from __future__ import annotations

from runyard_contract.manifest.chunks import chunked_size_bytes, decode_chunks, encode_chunks
from runyard_contract.manifest.decode import decode_directory
from runyard_contract.manifest.encode import encode_directory
from runyard_contract.manifest.entries import (
    Directory,
    DirectoryEntry,
    Encoded,
    Entry,
    FileEntry,
    Index,
    LinkEntry,
    Part,
    name_collision_key,
)
from runyard_contract.manifest.tree import iterate, read_directory

__all__ = [
    "Directory",
    "DirectoryEntry",
    "Encoded",
    "Entry",
    "FileEntry",
    "Index",
    "LinkEntry",
    "Part",
    "chunked_size_bytes",
    "decode_chunks",
    "decode_directory",
    "encode_chunks",
    "encode_directory",
    "iterate",
    "name_collision_key",
    "read_directory",
]
