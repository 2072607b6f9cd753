"""The merged log is the same at every reading, however it grew and whatever is asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_contract.orderindex import RECORD_BYTES, STDERR, STDOUT, Piece, encode_record
from runyard_daemon.logs.growing import GrowingFileReader
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.logs.merged import MergedWalk

KEY = AttemptKey("iris", "iris_1_00000001", 1)
WRITES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.integers(0, 9)), max_size=30)


class Growing:
    """A log that grows: its index in a file, its streams in memory."""

    def __init__(self, root: Path, writes: list[tuple[int, int]]) -> None:
        self.path = root.joinpath(*KEY.parts, LogFile.ORDER.value)
        self.path.parent.mkdir(parents=True)
        self.ends = {STDOUT: 0, STDERR: 0}
        self.merged: list[tuple[int, int]] = []
        self.index = b""
        for stream, length in writes:
            self.index += encode_record(stream, self.ends[stream], length)
            self.merged += [(stream, self.ends[stream] + n) for n in range(length)]
            self.ends[stream] += length
        self.reader = GrowingFileReader(root, KEY, LogFile.ORDER)

    def show(self, index_bytes: int) -> None:
        """Lets this much of the index be there."""
        self.path.write_bytes(self.index[:index_bytes])


def as_bytes(piece: Piece) -> list[tuple[int, int]]:
    """Each byte as (stream, offset in it)."""
    start = piece.offset_bytes
    return [(piece.stream, offset) for offset in range(start, start + piece.length_bytes)]


def drain(
    walk: MergedWalk, available: dict[int, int], max_bytes: int, *, is_complete: bool
) -> list[tuple[int, int]]:
    found = []
    while piece := walk.next_piece(available, max_bytes, is_complete=is_complete):
        assert 0 < piece.length_bytes <= max_bytes
        found += as_bytes(piece)
    return found


@settings(max_examples=150)
@given(WRITES, st.integers(0, 60), st.integers(1, 20), st.data())
def test_growing_merged_log_is_the_whole_one_in_order(
    writes: list[tuple[int, int]], offset: int, max_bytes: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        log = Growing(Path(folder), writes)
        walk = MergedWalk(log.reader, offset)
        found: list[tuple[int, int]] = []
        shown = {STDOUT: 0, STDERR: 0, 0: 0}
        for _ in range(4):
            shown[0] = data.draw(st.integers(shown[0], len(log.index)))
            for stream, end in log.ends.items():
                shown[stream] = data.draw(st.integers(shown[stream], end))
            log.show(shown[0])
            found += drain(walk, shown, max_bytes, is_complete=False)
            assert found == log.merged[offset : offset + len(found)]
        log.show(len(log.index))
        found += drain(walk, log.ends, max_bytes, is_complete=True)
        log.reader.close()

    assert found == log.merged[offset:]


@settings(max_examples=100)
@given(WRITES, st.integers(0, 400))
def test_complete_merged_log_has_every_byte_once_when_its_index_ends_early(
    writes: list[tuple[int, int]], index_bytes: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        log = Growing(Path(folder), writes)
        log.show(index_bytes)
        found = drain(MergedWalk(log.reader, 0), log.ends, 7, is_complete=True)
        log.reader.close()

    indexed = sum(length for _, length in writes[: index_bytes // RECORD_BYTES])
    assert found[:indexed] == log.merged[:indexed]
    assert sorted(found) == sorted(log.merged)
    for stream in (STDOUT, STDERR):
        offsets = [offset for found_stream, offset in found if found_stream == stream]
        assert offsets == list(range(log.ends[stream]))
