"""Content digests: BLAKE3 with 256 bits, written as 64 lower-case hexadecimal digits."""

from __future__ import annotations

import re

from blake3 import blake3

DIGEST_BYTES = 32

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The digest of these bytes."""
    return blake3(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether the text has the form of a digest."""
    return _DIGEST.fullmatch(text) is not None


class Hasher:
    """The digest of bytes that come in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Adds the next bytes."""
        self._state.update(data)

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        return self._state.hexdigest()
