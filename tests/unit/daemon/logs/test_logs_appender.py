from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runyard_contract.errors import DiskFailed, DiskFull, Draining, OffsetOutOfRange, UnsafePath
from runyard_daemon.logs.appender import Appender
from runyard_daemon.logs.layout import AttemptKey, LogFile

KEY = AttemptKey("iris", "iris_1_00000001", 1)
OTHER = AttemptKey("iris", "iris_1_00000002", 1)


@asynccontextmanager
async def opened(root: Path, **options: Any) -> AsyncIterator[Appender]:
    appender = Appender(root, **options)
    try:
        yield appender
    finally:
        await appender.close()


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Stands for a disk that is full: no file of this process may grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def content(root: Path, key: AttemptKey = KEY, file: LogFile = LogFile.STDOUT) -> bytes:
    return root.joinpath(*key.parts, file.value).read_bytes()


def open_files(root: Path) -> set[str]:
    """Files below a folder that this process has open, by their paths in it."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that listed the others
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {str(Path(path).relative_to(root)) for path in found if path.startswith(f"{root}/")}


def test_append_writes_pieces_at_their_place_and_answers_the_length(tmp_path: Path) -> None:
    async def go() -> list[int]:
        async with opened(tmp_path / "runs") as appender:
            return [
                await appender.append(KEY, LogFile.STDOUT, 0, b"first "),
                await appender.append(KEY, LogFile.STDOUT, 6, b"second"),
                await appender.append(KEY, LogFile.STDOUT, 0, b""),
            ]

    assert asyncio.run(go()) == [6, 12, 12]
    assert content(tmp_path / "runs") == b"first second"


def test_append_trims_what_is_there_when_a_piece_is_sent_again(tmp_path: Path) -> None:
    async def go() -> list[int]:
        async with opened(tmp_path) as appender:
            return [
                await appender.append(KEY, LogFile.STDOUT, 0, b"abcdef"),
                await appender.append(KEY, LogFile.STDOUT, 2, b"cdefgh"),
                await appender.append(KEY, LogFile.STDOUT, 0, b"abc"),
            ]

    assert asyncio.run(go()) == [6, 8, 8]
    assert content(tmp_path) == b"abcdefgh"


def test_append_answers_where_to_go_back_to_when_bytes_are_lacking(tmp_path: Path) -> None:
    async def go() -> int:
        async with opened(tmp_path) as appender:
            await appender.append(KEY, LogFile.STDOUT, 0, b"abc")
            return await appender.append(KEY, LogFile.STDOUT, 5, b"later")

    assert asyncio.run(go()) == 3
    assert content(tmp_path) == b"abc"


def test_append_goes_on_where_an_earlier_daemon_stopped(tmp_path: Path) -> None:
    async def send(offset_bytes: int, data: bytes) -> int:
        async with opened(tmp_path) as appender:
            return await appender.append(KEY, LogFile.ORDER, offset_bytes, data)

    asyncio.run(send(0, b"before"))

    assert asyncio.run(send(0, b"")) == 6
    assert asyncio.run(send(6, b" after")) == 12


def test_append_keeps_order_and_bytes_when_many_write_at_once(tmp_path: Path) -> None:
    keys = [AttemptKey("iris", f"iris_1_{n:08x}", 1) for n in range(12)]

    async def send(appender: Appender, key: AttemptKey) -> None:
        data = b"".join(b"%s line %d\n" % (key.run_id.encode(), n) for n in range(40))
        waiting = [
            appender.append(key, LogFile.STDOUT, start, data[start : start + 100])
            for start in range(0, len(data), 100)
        ]
        assert max(await asyncio.gather(*waiting)) == len(data)

    async def go() -> None:
        # Fewer files than writers, and room for a few pieces only.
        async with opened(tmp_path, open_files=4, queue_bytes=5000) as appender:
            await asyncio.gather(*(send(appender, key) for key in keys))

    asyncio.run(go())

    for key in keys:
        expected = b"".join(b"%s line %d\n" % (key.run_id.encode(), n) for n in range(40))
        assert content(tmp_path, key) == expected


def test_append_says_disk_full_to_its_caller_only(tmp_path: Path) -> None:
    async def go() -> list[int | BaseException]:
        async with opened(tmp_path) as appender:
            await appender.append(OTHER, LogFile.STDOUT, 0, b"x" * 100)
            await appender.append(KEY, LogFile.STDOUT, 0, b"y" * 900)
            with largest_file(1000):
                return await asyncio.gather(
                    appender.append(KEY, LogFile.STDOUT, 900, b"z" * 400),
                    appender.append(OTHER, LogFile.STDOUT, 100, b"x" * 100),
                    return_exceptions=True,
                )

    full, other = asyncio.run(go())

    assert isinstance(full, DiskFull)
    assert other == 200


def test_append_goes_on_when_a_full_disk_has_space_again(tmp_path: Path) -> None:
    async def go() -> int:
        async with opened(tmp_path) as appender:
            with largest_file(10), pytest.raises(DiskFull):
                await appender.append(KEY, LogFile.STDOUT, 0, b"0123456789abcdef")
            committed = await appender.append(KEY, LogFile.STDOUT, 0, b"")
            return await appender.append(
                KEY, LogFile.STDOUT, committed, b"0123456789abcdef"[committed:]
            )

    assert asyncio.run(go()) == 16
    assert content(tmp_path) == b"0123456789abcdef"


def test_append_refuses_a_negative_offset(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as appender:
            with pytest.raises(OffsetOutOfRange):
                await appender.append(KEY, LogFile.STDOUT, -1, b"x")

    asyncio.run(go())


@pytest.mark.parametrize("planted", ["iris", "iris/iris_1_00000001", "iris/iris_1_00000001/1"])
def test_append_follows_no_link_out_of_its_folder(tmp_path: Path, planted: str) -> None:
    root, outside = tmp_path / "runs", tmp_path / "outside"
    outside.mkdir()
    link = root / planted
    link.parent.mkdir(parents=True)
    link.symlink_to(outside, target_is_directory=True)

    async def go() -> None:
        async with opened(root) as appender:
            with pytest.raises(UnsafePath):
                await appender.append(KEY, LogFile.STDOUT, 0, b"x")

    asyncio.run(go())

    assert list(outside.iterdir()) == []


def test_append_does_not_write_through_a_link_at_the_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    folder = tmp_path.joinpath("runs", *KEY.parts)
    folder.mkdir(parents=True)
    (folder / "stdout.txt").symlink_to(target)

    async def go() -> None:
        async with opened(tmp_path / "runs") as appender:
            with pytest.raises(OSError, match="symbolic links"):
                await appender.append(KEY, LogFile.STDOUT, 4, b"x")

    asyncio.run(go())

    assert target.read_bytes() == b"mine"


def test_close_answers_what_waits_and_refuses_what_comes_later(tmp_path: Path) -> None:
    async def go() -> list[int]:
        async with opened(tmp_path) as appender:
            waiting = [
                asyncio.ensure_future(appender.append(KEY, LogFile.STDOUT, n, b"x"))
                for n in range(50)
            ]
            await asyncio.sleep(0)
            await appender.close()
            with pytest.raises(Draining):
                await appender.append(KEY, LogFile.STDOUT, 50, b"x")
            return await asyncio.gather(*waiting)

    assert asyncio.run(go())[-1] == 50
    assert content(tmp_path) == b"x" * 50


def test_is_complete_only_when_every_file_has_its_length(tmp_path: Path) -> None:
    lengths = {LogFile.STDOUT: 3, LogFile.STDERR: 0, LogFile.ORDER: 16}

    async def go() -> list[bool]:
        async with opened(tmp_path) as appender:
            await appender.append(KEY, LogFile.STDOUT, 0, b"abc")
            before = await appender.is_complete(KEY, lengths)
            await appender.append(KEY, LogFile.ORDER, 0, b"o" * 16)
            return [before, await appender.is_complete(KEY, lengths)]

    assert asyncio.run(go()) == [False, True]
    assert not tmp_path.joinpath(*KEY.parts, "stderr.txt").exists()


def test_append_takes_back_what_a_failed_sync_may_have_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def go() -> int:
        async with opened(tmp_path) as appender:
            await appender.append(KEY, LogFile.STDOUT, 0, b"durable")
            with monkeypatch.context() as disk:
                disk.setattr(os, "fdatasync", fail)
                with pytest.raises(DiskFailed, match="Input/output"):
                    await appender.append(KEY, LogFile.STDOUT, 7, b" lost")
            return await appender.append(KEY, LogFile.STDOUT, 0, b"")

    assert asyncio.run(go()) == 7
    assert content(tmp_path) == b"durable"


def test_append_keeps_what_an_earlier_daemon_acknowledged_when_a_sync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def first_daemon() -> None:
        async with opened(tmp_path) as appender:
            await appender.append(KEY, LogFile.STDOUT, 0, b"acknowledged")

    async def second_daemon() -> int:
        async with opened(tmp_path) as appender:
            with monkeypatch.context() as disk:
                disk.setattr(os, "fdatasync", fail)
                with pytest.raises(DiskFailed, match="Input/output"):
                    await appender.append(KEY, LogFile.STDOUT, 12, b" and more")
            return await appender.append(KEY, LogFile.STDOUT, 0, b"")

    asyncio.run(first_daemon())

    assert asyncio.run(second_daemon()) == 12
    assert content(tmp_path) == b"acknowledged"


def test_seal_closes_the_files_of_its_attempt_and_bytes_that_come_later_are_kept(
    tmp_path: Path,
) -> None:
    async def go() -> tuple[set[str], set[str], int]:
        async with opened(tmp_path) as appender:
            for key in (KEY, OTHER):
                await appender.append(key, LogFile.STDOUT, 0, b"out")
                await appender.append(key, LogFile.ORDER, 0, b"order")
            before = open_files(tmp_path)
            appender.seal(KEY)
            for _ in range(2):  # the second is taken when all of the first round is done
                await appender.append(OTHER, LogFile.STDOUT, 0, b"")
            after = open_files(tmp_path)
            return before, after, await appender.append(KEY, LogFile.STDOUT, 3, b" late")

    before, after, length_bytes = asyncio.run(go())

    ended = {f"{'/'.join(KEY.parts)}/{name}" for name in ("stdout.txt", LogFile.ORDER.value)}
    assert ended < before
    assert after == before - ended
    assert length_bytes == len(b"out late")
    assert content(tmp_path) == b"out late"


def test_seal_leaves_a_file_open_whose_sync_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def first_daemon() -> None:
        async with opened(tmp_path) as appender:
            await appender.append(KEY, LogFile.STDOUT, 0, b"acknowledged")

    async def second_daemon() -> tuple[set[str], int]:
        async with opened(tmp_path) as appender:
            with monkeypatch.context() as disk:
                disk.setattr(os, "fdatasync", fail)
                with pytest.raises(DiskFailed):
                    await appender.append(KEY, LogFile.STDOUT, 12, b" and more")
            appender.seal(KEY)
            for _ in range(2):
                await appender.append(OTHER, LogFile.STDOUT, 0, b"")
            still = open_files(tmp_path)
            return still, await appender.append(KEY, LogFile.STDOUT, 0, b"")

    asyncio.run(first_daemon())
    still, length_bytes = asyncio.run(second_daemon())

    assert "/".join((*KEY.parts, "stdout.txt")) in still
    assert length_bytes == 12


def test_names_of_new_files_are_synced_after_followers_were_woken_and_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync = os.fsync

    def noted(fd: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{fd}"))
        sync(fd)

    async def go() -> None:
        async with opened(tmp_path) as appender:
            loop = asyncio.get_running_loop()
            wake = loop.call_soon_threadsafe

            def noted_wake(*call: Any) -> Any:
                seen.append("told the loop")
                return wake(*call)

            monkeypatch.setattr(loop, "call_soon_threadsafe", noted_wake)
            pieces = [(KEY, LogFile.STDOUT, 0, b"out"), (KEY, LogFile.ORDER, 0, b"o" * 16)]
            await appender.append_all(pieces)

    monkeypatch.setattr(os, "fsync", noted)
    asyncio.run(go())

    attempt = tmp_path.joinpath(*KEY.parts)
    folders = [str(folder) for folder in (attempt, *attempt.parents[:3])]
    assert seen[:6] == ["told the loop", *folders, "told the loop"]


def test_append_acknowledges_nothing_in_a_folder_that_could_not_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def go() -> list[int]:
        async with opened(tmp_path) as appender:
            with monkeypatch.context() as disk:
                disk.setattr(os, "fsync", fail)
                with pytest.raises(DiskFailed, match="Input/output"):
                    await appender.append(KEY, LogFile.STDOUT, 0, b"out")
                with pytest.raises(DiskFailed, match="Input/output"):
                    await appender.append(KEY, LogFile.STDOUT, 0, b"")
                before = appender.durable_bytes(KEY, LogFile.STDOUT)
            return [before, await appender.append(KEY, LogFile.STDOUT, 0, b"out")]

    assert asyncio.run(go()) == [0, 3]
    assert content(tmp_path) == b"out"


def test_length_that_was_answered_is_known_until_the_attempt_is_sealed(tmp_path: Path) -> None:
    async def go() -> list[int]:
        async with opened(tmp_path) as appender:
            before = appender.durable_bytes(KEY, LogFile.STDOUT)
            await appender.append(KEY, LogFile.STDOUT, 0, b"abc")
            known = appender.durable_bytes(KEY, LogFile.STDOUT)
            appender.seal(KEY)
            return [before, known, appender.durable_bytes(KEY, LogFile.STDOUT)]

    assert asyncio.run(go()) == [0, 3, 0]
