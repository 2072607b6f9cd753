from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runyard_contract.errors import LogIndexCorrupt, OffsetOutOfRange
from runyard_contract.orderindex import STDERR, STDOUT, encode_record
from runyard_daemon.logs.appender import Appender
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.logs.reader import LogChunk, LogFollower, LogReader, LogSource

KEY = AttemptKey("iris", "iris_1_00000001", 1)
DEADLINE_S = 20.0
# What a job wrote: (stream, bytes), in order.
WRITES = ((STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three\n"), (STDOUT, b"four\n"))
MERGED = b"one\ntwo\nthree\nfour\n"


def never() -> bool:
    return False


def always() -> bool:
    return True


class Job:
    """Sends what a job writes, as an agent does."""

    def __init__(self, appender: Appender) -> None:
        self.appender = appender
        self.sent = {LogFile.STDOUT: 0, LogFile.STDERR: 0, LogFile.ORDER: 0}

    async def send(self, file: LogFile, data: bytes) -> None:
        self.sent[file] = await self.appender.append(KEY, file, self.sent[file], data)

    async def write(self, stream: int, data: bytes) -> None:
        file = LogFile.STDOUT if stream == STDOUT else LogFile.STDERR
        record = encode_record(stream, self.sent[file], len(data))
        await self.send(file, data)
        await self.send(LogFile.ORDER, record)


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[tuple[Job, LogReader]]:
    appender = Appender(root)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Job(appender), LogReader(root, appender.board)
    finally:
        await appender.close()


async def to_end(follower: LogFollower) -> list[LogChunk]:
    chunks = []
    while not follower.is_done:
        chunk = await follower.next()
        assert chunk is not None
        chunks.append(chunk)
    return chunks


def joined(chunks: list[LogChunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LogSource.MERGED, MERGED),
        (LogSource.STDOUT, b"one\nthree\nfour\n"),
        (LogSource.STDERR, b"two\n"),
        (LogSource.ENVIRONMENT, b""),
    ],
)
def test_complete_log_is_read_from_any_offset(
    tmp_path: Path, source: LogSource, expected: bytes
) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            for stream, data in WRITES:
                await job.write(stream, data)
            for offset in range(len(expected) + 1):
                with reader.follow(KEY, source, offset, is_sealed=always) as follower:
                    chunks = await to_end(follower)
                assert joined(chunks) == expected[offset:]
                assert [chunk.is_last for chunk in chunks[-2:]][-1]
                assert chunks[-1].offset_bytes == len(expected)

    asyncio.run(go())


def test_merged_log_says_which_stream_each_byte_is_of(tmp_path: Path) -> None:
    async def go() -> list[LogChunk]:
        async with opened(tmp_path) as (job, reader):
            for stream, data in WRITES:
                await job.write(stream, data)
            with reader.follow(KEY, LogSource.MERGED, is_sealed=always) as follower:
                return await to_end(follower)

    chunks = asyncio.run(go())

    assert [(chunk.source, chunk.offset_bytes, chunk.data) for chunk in chunks] == [
        (LogSource.STDOUT, 0, b"one\n"),
        (LogSource.STDERR, 4, b"two\n"),
        (LogSource.STDOUT, 8, b"three\nfour\n"),
        (LogSource.MERGED, 19, b""),
    ]


def test_followers_get_the_same_bytes_while_the_log_grows(tmp_path: Path) -> None:
    async def go() -> list[bytes]:
        async with opened(tmp_path) as (job, reader):
            followers = [
                reader.follow(KEY, LogSource.MERGED, offset, is_sealed=never)
                for offset in (0, 0, 6)
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(to_end(follower)) for follower in followers]
                for stream, data in WRITES:
                    await job.write(stream, data)
                job.appender.seal(KEY)
            for follower in followers:
                follower.close()
            return [joined(task.result()) for task in tasks]

    assert asyncio.run(go()) == [MERGED, MERGED, MERGED[6:]]


def test_follower_gets_a_line_before_the_next_is_written(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            with reader.follow(KEY, LogSource.MERGED, is_sealed=never) as follower:
                for n in range(20):
                    line = b"line %d\n" % n
                    await job.write(STDOUT, line)
                    chunk = await follower.next()
                    assert chunk is not None
                    assert chunk.data == line

    asyncio.run(go())


def test_follower_shows_nothing_before_what_comes_first(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            with reader.follow(KEY, LogSource.MERGED, is_sealed=never) as follower:
                records = encode_record(STDERR, 0, 4) + encode_record(STDOUT, 0, 3)
                await job.send(LogFile.ORDER, records)
                await job.send(LogFile.STDOUT, b"out")
                assert await follower.next(0) is None
                await job.send(LogFile.STDERR, b"er")
                first = await follower.next(0)
                await job.send(LogFile.STDERR, b"r\n")
                rest = [await follower.next(0), await follower.next(0)]
                assert first is not None
                assert [first.data, *(chunk.data for chunk in rest if chunk)] == [
                    b"er",
                    b"r\n",
                    b"out",
                ]

    asyncio.run(go())


def test_next_gives_none_when_nothing_comes_in_time(tmp_path: Path) -> None:
    async def go() -> LogChunk | None:
        async with opened(tmp_path) as (_, reader):
            with reader.follow(KEY, LogSource.MERGED, is_sealed=never) as follower:
                return await follower.next(0.01)

    assert asyncio.run(go()) is None


def test_complete_log_gives_what_its_index_lacks_at_the_end(tmp_path: Path) -> None:
    async def go() -> bytes:
        async with opened(tmp_path) as (job, reader):
            await job.write(STDOUT, b"indexed\n")
            await job.send(LogFile.STDERR, b"last words\n")
            await job.send(LogFile.STDOUT, b"more\n")
            with reader.follow(KEY, LogSource.MERGED, is_sealed=never) as follower:
                before = await follower.next(0)
                assert before is not None
                assert before.data == b"indexed\n"
                assert await follower.next(0) is None
                job.appender.seal(KEY)
                return before.data + joined(await to_end(follower))

    assert asyncio.run(go()) == b"indexed\nmore\nlast words\n"


def test_complete_log_ends_when_its_index_names_bytes_that_never_came(tmp_path: Path) -> None:
    async def go() -> bytes:
        async with opened(tmp_path) as (job, reader):
            await job.send(LogFile.STDOUT, b"abc")
            await job.send(LogFile.ORDER, encode_record(STDOUT, 0, 10) + b"cut")
            with reader.follow(KEY, LogSource.MERGED, is_sealed=always) as follower:
                return joined(await to_end(follower))

    assert asyncio.run(go()) == b"abc"


def test_damaged_index_is_an_error(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            await job.send(LogFile.ORDER, encode_record(STDOUT, 5, 10))
            with (
                reader.follow(KEY, LogSource.MERGED, is_sealed=always) as follower,
                pytest.raises(LogIndexCorrupt),
            ):
                await follower.next()

    asyncio.run(go())


def test_large_log_comes_in_chunks_of_one_mebibyte(tmp_path: Path) -> None:
    data = bytes(range(256)) * 12_000

    async def go() -> list[LogChunk]:
        async with opened(tmp_path) as (job, reader):
            for start in range(0, len(data), 300_000):
                await job.write(STDOUT, data[start : start + 300_000])
            with reader.follow(KEY, LogSource.MERGED, is_sealed=always) as follower:
                return await to_end(follower)

    chunks = asyncio.run(go())

    assert joined(chunks) == data
    assert max(len(chunk.data) for chunk in chunks) <= 1 << 20


def test_follow_refuses_a_negative_offset(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (_, reader):
            with pytest.raises(OffsetOutOfRange):
                reader.follow(KEY, LogSource.MERGED, -1, is_sealed=never)

    asyncio.run(go())


def test_tail_and_sizes_of_what_is_there(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            assert reader.tail(KEY, LogFile.STDERR, 10) == b""
            assert reader.sizes(KEY) == {}
            await job.write(STDERR, b"a long story, then the end")
            assert reader.tail(KEY, LogFile.STDERR, 7) == b"the end"
            assert reader.sizes(KEY) == {LogFile.STDERR: 26, LogFile.ORDER: 16}

    asyncio.run(go())


def test_closed_followers_leave_nothing_behind(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as (job, reader):
            first = reader.follow(KEY, LogSource.STDOUT, is_sealed=never)
            second = reader.follow(KEY, LogSource.STDOUT, is_sealed=never)
            first.close()
            first.close()
            await job.write(STDOUT, b"x")
            chunk = await second.next()
            second.close()
            assert chunk is not None
            assert chunk.data == b"x"
            with pytest.raises(ValueError, match="over"):
                await second.next()
            job.appender.seal(KEY)

    asyncio.run(go())
