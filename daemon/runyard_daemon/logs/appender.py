"""Appends the pieces that agents send, on a thread of its own, and answers with durable lengths.

All pieces that wait are written, then those who follow are woken, then each file that changed, and
each folder that has a new name in it, is synced once, then all callers are answered. A line is
therefore shown before the disk has it, and acknowledged after.
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
from runyard_contract.paths import sync_dir
from runyard_daemon.logs.growing import GrowingFile, as_user_error
from runyard_daemon.logs.layout import AttemptKey, LogFile, folders_above, open_to_append
from runyard_daemon.logs.progress import ProgressBoard

QUEUE_BYTES: Final = 64 << 20
_BATCH_BYTES: Final = 8 << 20
_BATCH_PIECES: Final = 512
_PIECE_OVERHEAD_BYTES: Final = 512  # so that a flood of empty pieces is bounded too
_OPEN_FILES: Final = 256
_KNOWN_LENGTHS: Final = 4096

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
        self._durable: OrderedDict[_FileId, int] = OrderedDict()
        """Lengths that were answered last, of attempts that are not sealed."""
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
            if self.durable_bytes(key, file) >= length_bytes:
                continue
            if await self.append(key, file, 0, b"") < length_bytes:
                return False
        return True

    def durable_bytes(self, key: AttemptKey, file: LogFile) -> int:
        """How much of a file is durable at least, as far as is known without asking for it."""
        return self._durable.get((key, file), 0)

    def seal(self, key: AttemptKey) -> None:
        """Ends the following of an attempt's log after its last byte, and closes its files.

        Call it when the record that says so is durable: later followers read that. Bytes that
        come nevertheless are still kept.
        """
        self.board.seal(key)
        for file in LogFile:
            self._durable.pop((key, file), None)
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
        failed = self._files.sync_folders(grown)
        for file_id, file in grown.items():
            if file_id in failed:
                continue
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
                self._durable[piece.file_id] = piece.committed_bytes
                piece.future.set_result(piece.committed_bytes)
        while len(self._durable) > _KNOWN_LENGTHS:
            self._durable.popitem(last=False)


class _OpenFiles:
    """Files that are kept open between batches."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._files: OrderedDict[_FileId, GrowingFile] = OrderedDict()
        self._unsynced: dict[_FileId, tuple[Path, ...]] = {}
        """Folders of which it is not known that a file's way through them is durable."""

    def get(self, file_id: _FileId) -> GrowingFile:
        """Gives a file, opened where it is not."""
        file = self._files.get(file_id)
        if file is None:
            file = self._files[file_id] = GrowingFile(open_to_append(self._root, *file_id))
            # An earlier daemon may have made it, and may have been killed before its name was safe.
            self._unsynced[file_id] = folders_above(self._root, file_id[0])
        self._files.move_to_end(file_id)
        return file

    def sync_folders(self, file_ids: Iterable[_FileId]) -> dict[_FileId, Exception]:
        """Makes the names of files durable, each folder once; gives what failed, to be tried again
        with the file's next piece."""
        wanted = {file_id: self._unsynced.get(file_id, ()) for file_id in file_ids}
        errors: dict[Path, Exception] = {}
        for folder in {folder: None for folders in wanted.values() for folder in folders}:
            try:
                sync_dir(folder)
            except OSError as error:
                errors[folder] = as_user_error(error)
        failed = {}
        for file_id, folders in wanted.items():
            lost = [errors[folder] for folder in folders if folder in errors]
            if lost:
                failed[file_id] = lost[0]
            else:
                self._unsynced.pop(file_id, None)
        return failed

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
        if self._files[file_id].is_synced and file_id not in self._unsynced:
            self._files.pop(file_id).close()

    def close(self) -> None:
        """Closes all."""
        while self._files:
            self._files.popitem()[1].close()
