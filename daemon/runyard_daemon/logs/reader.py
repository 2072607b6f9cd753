"""Reads logs as they are asked for: one stream or the merged log, from an offset, to its end.

A follower holds no bytes: it reads from the files what its caller is ready to take, so that a slow
one costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from runyard_contract.errors import OffsetOutOfRange
from runyard_contract.limits import LOG_CHUNK_BYTES
from runyard_contract.orderindex import STDERR, STDOUT, Piece
from runyard_daemon.logs.growing import GrowingFileReader
from runyard_daemon.logs.layout import AttemptKey, LogFile, folder_path
from runyard_daemon.logs.merged import MergedWalk
from runyard_daemon.logs.progress import Progress, ProgressBoard

# What was just written is in memory: to read a little of it costs less than a hand-over.
_INLINE_BYTES: Final = 64 << 10


class LogSource(StrEnum):
    """Which log of an attempt."""

    MERGED = "merged"
    STDOUT = "stdout"
    STDERR = "stderr"
    ENVIRONMENT = "environment"


_FILES: Final = {
    LogSource.STDOUT: LogFile.STDOUT,
    LogSource.STDERR: LogFile.STDERR,
    LogSource.ENVIRONMENT: LogFile.ENVIRONMENT,
}
_STREAMS: Final = {STDOUT: LogSource.STDOUT, STDERR: LogSource.STDERR}


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Some bytes of a log."""

    source: LogSource
    """What the bytes are of: never MERGED, but for the last, empty chunk of a merged log."""
    offset_bytes: int
    """Where they begin in the log that was asked for."""
    data: bytes
    is_last: bool = False
    """The log is complete; comes once, without data."""


class LogReader:
    """Opens the logs of attempts.

    Args:
        root: the data directory's `runs`.
        board: that of the appender, which wakes followers.
    """

    def __init__(self, root: Path, board: ProgressBoard) -> None:
        self._root = root
        self._board = board

    def follow(
        self,
        key: AttemptKey,
        source: LogSource,
        offset_bytes: int = 0,
        *,
        is_sealed: Callable[[], bool],
    ) -> LogFollower:
        """Begins to follow a log; the caller closes what it gets (it is a context manager).

        `is_sealed` says whether the attempt's record has a complete log; it is asked once, after
        the follower was registered, so that no seal is missed. Raises OffsetOutOfRange for a
        negative offset; one beyond the end waits for the log to get there.
        """
        if offset_bytes < 0:
            raise OffsetOutOfRange(
                f"offset {offset_bytes} is negative", offset_bytes=str(offset_bytes)
            )
        follower = LogFollower(self._root, self._board, key, source, offset_bytes)
        if is_sealed():
            follower.note_sealed()
        return follower

    def tail(self, key: AttemptKey, file: LogFile, max_bytes: int) -> bytes:
        """Gives the last bytes of a file, at most `max_bytes`. Blocks; for small amounts."""
        reader = GrowingFileReader(self._root, key, file)
        try:
            return reader.read(max(0, reader.size_bytes() - max_bytes), max_bytes)
        finally:
            reader.close()

    def sizes(self, key: AttemptKey) -> dict[LogFile, int]:
        """Gives the lengths now of an attempt's files that exist, in bytes. Blocks shortly."""
        folder = folder_path(self._root, key)
        found = {}
        for file in LogFile:
            try:
                found[file] = (folder / file.value).lstat().st_size
            except FileNotFoundError:
                continue
        return found


class LogFollower:
    """One reading of a log. Made by `LogReader.follow`; used by one task, on the event loop."""

    def __init__(
        self,
        root: Path,
        board: ProgressBoard,
        key: AttemptKey,
        source: LogSource,
        offset_bytes: int,
    ) -> None:
        self.is_done = False
        """The last chunk was given."""
        self._board = board
        self._key = key
        self._source = source
        self._offset_bytes = offset_bytes
        self._progress: Progress | None = board.join(key)
        files = (
            (LogFile.STDOUT, LogFile.STDERR, LogFile.ORDER)
            if source is LogSource.MERGED
            else (_FILES[source],)
        )
        self._files = {file: GrowingFileReader(root, key, file) for file in files}
        self._walk: MergedWalk | None = None
        if source is LogSource.MERGED:
            self._walk = MergedWalk(self._files[LogFile.ORDER], offset_bytes)
        self._is_positioned = offset_bytes == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reading. Idempotent."""
        if self._progress is not None:
            self._progress = None
            self._board.leave(self._key)
            for file in self._files.values():
                file.close()

    def note_sealed(self) -> None:
        """Takes the log for complete, whatever the board says."""
        if self._progress is not None:
            self._progress.is_sealed = True

    async def next(self, timeout_s: float | None = None) -> LogChunk | None:
        """Gives the next bytes, up to 1 MiB, as soon as there are any.

        None: nothing came for `timeout_s`; with 0 it gives what is there now. After the last byte
        of a complete log comes one empty chunk with `is_last`. After a cancelled call the reading
        is over: begin another where the last chunk ended. Raises LogIndexCorrupt.
        """
        progress = self._progress
        if progress is None or self.is_done:
            raise ValueError("this reading of a log is over")
        while True:
            changes, is_sealed = progress.changes, progress.is_sealed
            chunk = await self._read(is_complete=is_sealed)
            if chunk is not None:
                return chunk
            if is_sealed:
                self.is_done = True
                return LogChunk(self._source, self._offset_bytes, b"", is_last=True)
            if not await progress.wait_beyond(changes, timeout_s):
                return None

    async def _read(self, *, is_complete: bool) -> LogChunk | None:
        """Reads the next bytes that are there; None: there are none now."""
        if self._is_positioned:
            piece = self._next_piece(is_complete)
        else:
            # To find a place in a long index takes a while: not on the event loop.
            piece = await asyncio.to_thread(self._next_piece, is_complete)
            self._is_positioned = True
        if piece is None:
            return None
        source = self._source if self._walk is None else _STREAMS[piece.stream]
        file = self._files[_FILES[source]]
        if piece.length_bytes <= _INLINE_BYTES:
            data = file.read(piece.offset_bytes, piece.length_bytes)
        else:
            data = await asyncio.to_thread(file.read, piece.offset_bytes, piece.length_bytes)
        chunk = LogChunk(source, self._offset_bytes, data)
        self._offset_bytes += len(data)
        return chunk

    def _next_piece(self, is_complete: bool) -> Piece | None:
        """Says which bytes come next."""
        if self._walk is None:
            (file,) = self._files.values()
            count = min(file.size_bytes() - self._offset_bytes, LOG_CHUNK_BYTES)
            return Piece(STDOUT, self._offset_bytes, count) if count > 0 else None
        available = {
            STDOUT: self._files[LogFile.STDOUT].size_bytes(),
            STDERR: self._files[LogFile.STDERR].size_bytes(),
        }
        return self._walk.next_piece(available, LOG_CHUNK_BYTES, is_complete=is_complete)
