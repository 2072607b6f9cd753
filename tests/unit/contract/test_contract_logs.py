from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runyard_contract.errors import LogIndexCorrupt, OffsetOutOfRange
from runyard_contract.orderindex import (
    RECORD_BYTES,
    STDERR,
    STDOUT,
    MergedView,
    Piece,
    encode_record,
)
from runyard_contract.shipping import accept

writes = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.integers(0, 30)), max_size=60)


class Log:
    """A job's two streams and their index, as the supervisor writes them."""

    def __init__(self, written: list[tuple[int, int]]) -> None:
        self.streams = {STDOUT: b"", STDERR: b""}
        self.merged = b""
        self.index = b""
        for number, (stream, length) in enumerate(written):
            data = bytes([number % 251]) * length
            self.index += encode_record(stream, len(self.streams[stream]), length)
            self.streams[stream] += data
            self.merged += data

    def view(self, cuts: list[int] | None = None) -> MergedView:
        view = MergedView(self.records)
        edges = [0, *sorted(min(cut, len(self.index)) for cut in cuts or []), len(self.index)]
        for start, end in itertools.pairwise(edges):
            view.extend(self.index[start:end])
        return view

    def records(self, first: int, count: int) -> bytes:
        assert 0 <= first
        assert (first + count) * RECORD_BYTES <= len(self.index)
        return self.index[first * RECORD_BYTES : (first + count) * RECORD_BYTES]

    def read(self, view: MergedView, offset: int, size: int) -> bytes:
        pieces = view.pieces(offset, size, len(self.streams[STDOUT]), len(self.streams[STDERR]))
        return b"".join(
            self.streams[p.stream][p.offset_bytes : p.offset_bytes + p.length_bytes] for p in pieces
        )


@given(writes, st.lists(st.integers(0, 1000), max_size=5), st.lists(st.integers(1, 40)))
def test_any_split_of_reads_gives_the_bytes_of_one_read(
    written: list[tuple[int, int]], cuts: list[int], read_sizes: list[int]
) -> None:
    log = Log(written)
    view = log.view(cuts)

    got = b""
    for size in [*read_sizes, 1 << 20]:
        got += log.read(view, len(got), size)

    assert got == log.merged == log.read(view, 0, 1 << 20)
    assert view.total_bytes == len(log.merged)


def test_reads_far_into_a_long_index_start_at_a_checkpoint() -> None:
    log = Log([(STDOUT if i % 3 else STDERR, 1 + i % 7) for i in range(5000)])
    asked: list[int] = []

    def read_records(first: int, count: int) -> bytes:
        asked.append(first)
        return log.records(first, count)

    view = MergedView(read_records)
    view.extend(log.index)

    for offset in (0, 1, 4095, 9000, len(log.merged) - 1):
        asked.clear()
        assert log.read(view, offset, 50) == log.merged[offset : offset + 50]
        assert asked[0] * 7 >= offset - 1024 * 7
        assert len(asked) <= 2


@given(writes, st.integers(0, 400), st.integers(0, 400))
def test_nothing_behind_the_first_byte_that_is_not_there_is_shown(
    written: list[tuple[int, int]], stdout_bytes: int, stderr_bytes: int
) -> None:
    log = Log(written)
    available = {STDOUT: stdout_bytes, STDERR: stderr_bytes}

    pieces = log.view().pieces(0, 1 << 20, stdout_bytes, stderr_bytes)

    shown = sum(piece.length_bytes for piece in pieces)
    assert all(p.offset_bytes + p.length_bytes <= available[p.stream] for p in pieces)
    expected = 0
    ends = {STDOUT: 0, STDERR: 0}
    for stream, length in written:
        ready = min(length, max(0, available[stream] - ends[stream]))
        expected += ready
        ends[stream] += length
        if ready < length:
            break
    assert shown == expected


def test_neighbours_in_one_stream_are_one_piece() -> None:
    log = Log([(STDOUT, 5), (STDOUT, 0), (STDOUT, 7), (STDERR, 1)])

    assert log.view().pieces(2, 100, 12, 1) == [Piece(STDOUT, 2, 10), Piece(STDERR, 0, 1)]


def test_view_tells_how_much_of_each_stream_it_covers() -> None:
    view = Log([(STDOUT, 5), (STDERR, 2), (STDOUT, 1)]).view()

    assert (view.stdout_bytes, view.stderr_bytes, view.records) == (6, 2, 3)
    assert view.pieces(8, 10, 6, 2) == view.pieces(0, 0, 6, 2) == view.pieces(-1, 5, 6, 2) == []


@pytest.mark.parametrize(
    "record",
    [encode_record(3, 5, 1), encode_record(STDOUT, 4, 1), encode_record(STDERR, 5, 1)],
)
def test_record_that_cannot_be_is_refused_and_what_came_before_is_kept(record: bytes) -> None:
    log = Log([(STDOUT, 5)])
    view = log.view()

    with pytest.raises(LogIndexCorrupt):
        view.extend(record)

    assert view.total_bytes == 5
    assert log.read(view, 0, 10) == log.merged


def test_negative_offset_is_refused() -> None:
    with pytest.raises(OffsetOutOfRange):
        accept(5, -1, b"abc")


class LogPush(RuleBasedStateMachine):
    """A sender with a spool, a link that loses, repeats and reorders, a receiver that crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.spool = b""
        self.stored = b""
        self.synced_bytes = 0
        self.acked_bytes = 0
        self.wire: list[tuple[int, bytes]] = []

    @rule(data=st.binary(max_size=40))
    def produce(self, data: bytes) -> None:
        self.spool += data

    @rule(back=st.integers(0, 60), length=st.integers(1, 50))
    def send(self, back: int, length: int) -> None:
        offset = max(0, self.acked_bytes - back)
        self.wire.append((offset, self.spool[offset : offset + length]))

    @rule(which=st.integers(0, 9), again=st.booleans())
    def deliver(self, which: int, again: bool) -> None:
        if not self.wire:
            return
        offset, data = self.wire[which % len(self.wire)]
        if not again:
            self.wire.remove((offset, data))
        append = accept(len(self.stored), offset, data)
        if append is None:
            assert offset > len(self.stored)
            return
        self.stored += append.data
        assert append.committed_bytes == len(self.stored)

    @rule()
    def sync(self) -> None:
        self.synced_bytes = self.acked_bytes = len(self.stored)

    @rule()
    def crash(self) -> None:
        self.stored = self.stored[: self.synced_bytes]

    @invariant()
    def stored_is_what_was_written(self) -> None:
        assert self.spool.startswith(self.stored)
        assert self.acked_bytes <= len(self.stored)


TestLogPush = LogPush.TestCase
