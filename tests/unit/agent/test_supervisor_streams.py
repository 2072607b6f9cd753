"""FIFO to spool: opened again after a crash, without splice, under a bound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_agent.supervisor.streams import ORDER_RECORD, Spool, Stream, make_fifos
from runyard_contract import orderindex


@pytest.fixture
def fifo() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def _records(bundle: Path) -> list[tuple[int, int, int]]:
    return list(ORDER_RECORD.iter_unpack((bundle / "order").read_bytes()))


def _open(bundle: Path) -> Spool:
    spool = Spool(str(bundle), make_fifos(str(bundle), False), 1 << 20)
    assert spool.drain()
    return spool


def test_order_record_is_the_contracts() -> None:
    packed = ORDER_RECORD.pack(2, 70_000, 1 << 40)

    assert packed == orderindex.encode_record(2, offset_bytes=1 << 40, length_bytes=70_000)


def test_spool_opened_again_indexes_what_was_not_yet(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"indexed, not indexed")
    (tmp_path / "stderr").write_bytes(b"never")
    (tmp_path / "order").write_bytes(ORDER_RECORD.pack(1, 7, 0) + b"\x02torn")

    spool = _open(tmp_path)
    spool.close()

    assert spool.lengths() == (20, 5)
    assert _records(tmp_path) == [(1, 7, 0), (1, 13, 7), (2, 5, 0)]
    assert spool.order_bytes == 48


def test_spool_without_fifos_indexes_what_was_not_yet(tmp_path: Path) -> None:
    """After a power loss the FIFOs may be gone, or held by nobody who can be asked."""
    (tmp_path / "stdout").write_bytes(b"moved")
    (tmp_path / "stderr").write_bytes(b"too")

    spool = Spool(str(tmp_path), [], 1)
    is_drained = spool.drain()
    spool.close()

    assert is_drained
    assert _records(tmp_path) == [(1, 5, 0), (2, 3, 0)]
    assert spool.order_bytes == 32


def test_spool_opened_again_goes_on_at_its_end(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        spool = Spool(str(tmp_path), make_fifos(str(tmp_path), False), 1 << 20)
        os.write(spool.streams[0].fifo_fd, text)
        assert spool.drain()
        spool.close()

    assert (tmp_path / "stdout").read_bytes() == b"firstsecond"
    assert _records(tmp_path) == [(1, 5, 0), (1, 6, 5)]


def test_spool_reads_no_more_than_its_bound(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), make_fifos(str(tmp_path), False), 100)
    stream = spool.streams[0]
    os.write(stream.fifo_fd, b"x" * 250)

    moved = [spool.pump(stream), spool.pump(stream)]
    is_wanted = spool.wants(stream)
    spool.acknowledge((60, 0))
    moved.append(spool.pump(stream))
    spool.acknowledge((10**9, 10**9))
    moved.append(spool.pump(stream))
    spool.close()

    assert moved == [100, 0, 60, 90]
    assert not is_wanted


def test_stream_moves_bytes_where_splice_is_refused(fifo: tuple[int, int], tmp_path: Path) -> None:
    """splice refuses files that only append, as it does file systems without support."""
    reader, writer = fifo
    file_fd = os.open(tmp_path / "spool", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    stream = Stream(1, reader, file_fd)
    os.write(writer, b"x" * 50_000)

    stream.move(20_000)
    first_bytes = stream.written_bytes
    os.write(writer, b"end")
    stream.move(1 << 20)
    os.close(file_fd)

    assert first_bytes == 20_000
    assert (tmp_path / "spool").read_bytes() == b"x" * 50_000 + b"end"
    assert stream.written_bytes == 50_003


def test_fifos_of_an_earlier_owner_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "stdout.fifo").symlink_to("/etc/passwd")

    (reader,) = make_fifos(str(tmp_path), True)
    os.close(reader)

    assert (tmp_path / "stdout.fifo").is_fifo()
    assert not (tmp_path / "stdout.fifo").is_symlink()
