"""The chunk list of a large file: its chunks in order, and the rule that cut them.

The list names its chunker, so that another one can come without a new manifest format. There is
one now: fixed chunks of 4 MiB, the last one shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from runyard_contract.digest import DIGEST_BYTES, is_digest
from runyard_contract.errors import ManifestInvalid
from runyard_contract.limits import CHUNK_BYTES, CHUNKED_ABOVE_BYTES
from runyard_contract.manifest.entries import KIND_CHUNKS, MAGIC, invalid

CHUNKER_FIXED_4MIB = 1

_HEADER = struct.Struct("<4scBI")  # magic, kind, chunker, number of chunks
_CHUNK = struct.Struct(f"<I{DIGEST_BYTES}s")  # size, digest
# So that a list is no larger than a blob may be: enough for a file of 900 GiB.
MAX_CHUNKS = CHUNKED_ABOVE_BYTES // _CHUNK.size - 1


def encode_chunks(chunks: Sequence[tuple[str, int]]) -> bytes:
    """The list of these (digest, size in bytes). Raises ManifestInvalid where none can be."""
    if not all(is_digest(digest) for digest, _ in chunks):
        raise invalid("a chunk has no digest")
    _check_sizes([size_bytes for _, size_bytes in chunks])
    header = _HEADER.pack(MAGIC, KIND_CHUNKS, CHUNKER_FIXED_4MIB, len(chunks))
    return header + b"".join(
        _CHUNK.pack(size_bytes, bytes.fromhex(digest)) for digest, size_bytes in chunks
    )


def decode_chunks(data: bytes) -> tuple[tuple[str, int], ...]:
    """The (digest, size in bytes) of all chunks, in the file's order. Raises ManifestInvalid."""
    if len(data) < _HEADER.size:
        raise invalid("it is too short for a chunk list")
    magic, kind, chunker, count = _HEADER.unpack_from(data)
    if magic != MAGIC or kind != KIND_CHUNKS or chunker != CHUNKER_FIXED_4MIB:
        raise invalid("it is no chunk list, or of an unknown chunker")
    if len(data) != _HEADER.size + count * _CHUNK.size:
        raise invalid(f"{count} chunks announced")
    chunks = tuple(
        (digest.hex(), size_bytes)
        for size_bytes, digest in _CHUNK.iter_unpack(memoryview(data)[_HEADER.size :])
    )
    _check_sizes([size_bytes for _, size_bytes in chunks])
    return chunks


def chunked_size_bytes(chunks: Sequence[tuple[str, int]]) -> int:
    """The size of the file that these chunks make up."""
    return sum(size_bytes for _, size_bytes in chunks)


def _check_sizes(sizes_bytes: Sequence[int]) -> ManifestInvalid | None:
    """Raises ManifestInvalid unless these sizes are what the chunker makes of a large file."""
    if len(sizes_bytes) > MAX_CHUNKS or sum(sizes_bytes) <= CHUNKED_ABOVE_BYTES:
        raise invalid(f"{len(sizes_bytes)} chunks are no large file")
    if any(size != CHUNK_BYTES for size in sizes_bytes[:-1]):
        raise invalid("a chunk before the last is not 4 MiB")
    if not 0 < sizes_bytes[-1] <= CHUNK_BYTES:
        raise invalid("the last chunk is empty or too long")
    return None
