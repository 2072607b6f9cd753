"""The rule by which appended bytes travel: by offset, each byte exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.errors import OffsetOutOfRange


@dataclass(frozen=True, slots=True)
class Append:
    """What to do with a pushed piece: write `data` at the end, acknowledge `committed_bytes`.

    `data` is empty where the piece brings nothing new.
    """

    data: bytes | memoryview
    committed_bytes: int


def accept(committed_bytes: int, offset_bytes: int, data: bytes | memoryview) -> Append | None:
    """Decides on a pushed piece of a file that holds `committed_bytes`.

    Duplicates and overlaps are trimmed, so a piece that is sent again is harmless. None means a
    gap: the sender must go back to `committed_bytes`. Raises OffsetOutOfRange for a negative
    offset.
    """
    if offset_bytes < 0:
        raise OffsetOutOfRange(f"offset {offset_bytes} is negative", offset_bytes=str(offset_bytes))
    if offset_bytes > committed_bytes:
        return None
    fresh = data[committed_bytes - offset_bytes :]
    return Append(fresh, committed_bytes + len(fresh))
