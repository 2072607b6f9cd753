"""Appends the pieces that agents send, on a thread of its own, and answers with durable lengths.

All pieces that wait are written, then those who follow are woken, then each file that changed is
synced once, then all callers are answered. A line is therefore shown before the disk has it, and
acknowledged after.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runyard_contract.errors import Draining, RunyardError
from runyard_daemon.logs.growing import GrowingFile, as_user_error
from runyard_daemon.logs.layout import AttemptKey, LogFile, open_to_append
from runyard_daemon.logs.progress import ProgressBoard

QUEUE_BYTES: Final = 64 << 20
_BATCH_BYTES: Final = 8 << 20
_BATCH_PIECES: Final = 512
_PIECE_OVERHEAD_BYTES: Final = 512  # so that a flood of empty pieces is bounded too
_OPEN_FILES: Final = 256

_FileId = tuple[AttemptKey, LogFile]


@dataclass(slots=True)
class _Piece:
    """A piece that waits for its answer."""

    file_id: _FileId
    offset_bytes: int
    data: bytes | memoryview
    future: asyncio.Future[int]
    committed_bytes: int = 0
    error: Exception | None = None

    @property
    def cost_bytes(self) -> int:
        """What it takes of the queue."""
        return len(self.data) + _PIECE_OVERHEAD_BYTES


class Appender:
    """Writes the growing files of all attempts.

    Must be made and used on the thread of a running event loop.

    Args:
        root: the data directory's `runs`; made when needed.
        board: where followers wait.
        queue_bytes: what may wait; more callers wait for room, which slows their streams down.
        open_files: files kept open between pieces, the least recently used is closed first.
    """

    def __init__(
        self,
        root: Path,
        board: ProgressBoard | None = None,
        *,
        queue_bytes: int = QUEUE_BYTES,
        open_files: int = _OPEN_FILES,
    ) -> None:
        self.board = board or ProgressBoard()
        self._root = root
        self._queue_bytes = queue_bytes
        self._waiting_bytes = 0
        self.received_bytes = 0
        """What was given to `append` so far, repeats included."""
        self._has_room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Piece | AttemptKey | None] = queue.SimpleQueue()
        self._files = _OpenFiles(root, open_files)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="log-appender", daemon=True)
        self._thread.start()

    async def append(
        self, key: AttemptKey, file: LogFile, offset_bytes: int, data: bytes | memoryview
    ) -> int:
        """Takes a piece of a file and returns the file's durable length.

        Where that is below the end of the piece, the sender goes back to it: a piece that would
        leave a gap is not written. Bytes that are there already are not written again. An empty
        piece asks for the length. Raises DiskFull, which harms this caller only, OffsetOutOfRange
        for a negative offset, Draining after `close`, and OSError for other faults of the disk.
        """
        return await (await self._queue_up(_Piece((key, file), offset_bytes, data, self._future())))

    async def append_all(
        self, pieces: Iterable[tuple[AttemptKey, LogFile, int, bytes]]
    ) -> dict[tuple[AttemptKey, LogFile], int]:
        """Takes pieces of many files at once; gives the durable length of each file.

        As `append`; one that fails fails all, though others may have been written.
        """
        futures = [
            ((key, file), await self._queue_up(_Piece((key, file), offset, data, self._future())))
            for key, file, offset, data in pieces
        ]
        lengths = await asyncio.gather(*(future for _, future in futures))
        return {file_id: length for (file_id, _), length in zip(futures, lengths, strict=True)}

    def _future(self) -> asyncio.Future[int]:
        return self._loop.create_future()

    async def _queue_up(self, piece: _Piece) -> asyncio.Future[int]:
        """Waits for room and hands a piece to the thread."""
        while self._waiting_bytes and self._waiting_bytes + piece.cost_bytes > self._queue_bytes:
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_closed:
            raise Draining("the daemon is stopping", hint="send the log again in a few seconds")
        self._waiting_bytes += piece.cost_bytes
        self.received_bytes += len(piece.data)
        self._queue.put(piece)
        return piece.future

    async def is_complete(self, key: AttemptKey, lengths: Mapping[LogFile, int]) -> bool:
        """Whether all files of an attempt have durably reached these lengths."""
        for file, length_bytes in lengths.items():
            if length_bytes and await self.append(key, file, 0, b"") < length_bytes:
                return False
        return True

    def seal(self, key: AttemptKey) -> None:
        """Ends the following of an attempt's log after its last byte, and closes its files.

        Call it when the record that says so is durable: later followers read that. Bytes that
        come nevertheless are still kept.
        """
        self.board.seal(key)
        self._queue.put(key)

    async def close(self) -> None:
        """Writes and answers what waits, then ends the thread. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._has_room.set()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch, sealed, is_open = self._take()
            if batch:
                self._write(batch)
            for key in sealed:
                self._files.close_of(key)
        self._files.close()

    def _take(self) -> tuple[list[_Piece], list[AttemptKey], bool]:
        """Waits for work and takes what else is there, up to a batch; False: closed."""
        batch: list[_Piece] = []
        sealed: list[AttemptKey] = []
        size_bytes = 0
        try:
            item = self._queue.get()
            while item is not None:
                if isinstance(item, AttemptKey):
                    sealed.append(item)
                else:
                    batch.append(item)
                    size_bytes += len(item.data)
                if size_bytes >= _BATCH_BYTES or len(batch) + len(sealed) >= _BATCH_PIECES:
                    return batch, sealed, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return batch, sealed, True
        return batch, sealed, False

    def _write(self, batch: list[_Piece]) -> None:
        """Writes, wakes, syncs, answers."""
        grown: dict[_FileId, GrowingFile] = {}
        for piece in batch:
            try:
                file = self._files.get(piece.file_id)
                file.take(piece.offset_bytes, piece.data)
                grown[piece.file_id] = file
            except OSError as error:
                piece.error = as_user_error(error)
            except RunyardError as error:
                piece.error = error
        self._loop.call_soon_threadsafe(self.board.wake, {key for key, _ in grown})
        failed: dict[_FileId, Exception] = {}
        for file_id, file in grown.items():
            try:
                file.sync()
            except OSError as error:
                failed[file_id] = as_user_error(error)
        for piece in batch:
            piece.error = piece.error or failed.get(piece.file_id)
            if piece.error is None:
                piece.committed_bytes = grown[piece.file_id].durable_bytes
        self._files.trim()
        self._loop.call_soon_threadsafe(self._answer, batch)

    def _answer(self, batch: list[_Piece]) -> None:
        """Resolves the futures of a batch, on the event loop."""
        self._waiting_bytes -= sum(piece.cost_bytes for piece in batch)
        self._has_room.set()
        for piece in batch:
            if piece.future.done():
                continue
            if piece.error is not None:
                piece.future.set_exception(piece.error)
            else:
                piece.future.set_result(piece.committed_bytes)


class _OpenFiles:
    """Files that are kept open between batches."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._files: OrderedDict[_FileId, GrowingFile] = OrderedDict()

    def get(self, file_id: _FileId) -> GrowingFile:
        """Gives a file, opened where it is not."""
        file = self._files.get(file_id)
        if file is None:
            file = self._files[file_id] = GrowingFile(open_to_append(self._root, *file_id))
        self._files.move_to_end(file_id)
        return file

    def trim(self) -> None:
        """Closes the least recently used beyond the limit, but none that a failed sync left."""
        for file_id in list(self._files)[: max(0, len(self._files) - self._limit)]:
            self._close_synced(file_id)

    def close_of(self, key: AttemptKey) -> None:
        """Closes the files of an attempt, but none that a failed sync left."""
        for file in LogFile:
            if (key, file) in self._files:
                self._close_synced((key, file))

    def _close_synced(self, file_id: _FileId) -> None:
        if self._files[file_id].is_synced:
            self._files.pop(file_id).close()

    def close(self) -> None:
        """Closes all."""
        while self._files:
            self._files.popitem()[1].close()
