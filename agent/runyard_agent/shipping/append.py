"""Sends the growing files of all attempts over one stream, and hears what is durable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from runyard_agent import journal
from runyard_agent.core.backoff import Backoff
from runyard_agent.link import Link, Stream, Stubs, cancelling
from runyard_agent.shipping.growing import GrowingFiles
from runyard_contract.errors import RunyardError
from runyard_contract.limits import LOG_CHUNK_BYTES
from runyardpb.agent.v1 import agent_pb2 as pb

AppendCall = Stream[pb.AppendFilesRequest, pb.AppendFilesResponse]

WINDOW_BYTES = 8 << 20
"""Unacknowledged bytes under way, where the daemon names no window."""
_TURN_BYTES = 2 << 20
"""What one attempt may send before the next has its turn."""
_RETRY = Backoff(first_s=0.1, cap_s=5.0)

_Id = tuple[str, int, int]


class Appender:
    """All growing files of this agent. `wake` says that one has grown."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._files: dict[_Id, GrowingFiles] = {}
        self._grown: dict[_Id, None] = {}
        self._wake = asyncio.Event()
        self._waiting: dict[_Id, asyncio.Event] = {}
        self._blocked: set[_Id] = set()
        self._has_heard = False
        self.window_bytes = WINDOW_BYTES

    def add(self, files: GrowingFiles) -> None:
        """Ships these from now on."""
        self._files[_id(files.ref)] = files

    def remove(self, files: GrowingFiles) -> None:
        """Ships these no more."""
        key = _id(files.ref)
        if self._files.get(key) is files:
            del self._files[key]
            self._grown.pop(key, None)
            self._blocked.discard(key)
            self._look_again(key)
        files.close()

    def wake(self, files: GrowingFiles) -> None:
        """Something may have to be sent of these."""
        files.grown()
        self._grown[_id(files.ref)] = None
        self._wake.set()

    def nudge(self, files: GrowingFiles) -> None:
        """Has whoever waits in `complete` look again."""
        self._look_again(_id(files.ref))

    def _look_again(self, key: _Id) -> None:
        """Wakes who waits for something of these files."""
        event = self._waiting.pop(key, None)
        if event is not None:
            event.set()

    async def complete(self, files: GrowingFiles) -> bool:
        """Waits until all of these is durable; False once they are shipped no more."""
        return await self._until(files, lambda: files.is_complete)

    async def wanted(self, files: GrowingFiles) -> bool:
        """Waits while the daemon refuses the attempt; False once they are shipped no more.

        It may refuse one that it does not know (yet): that is asked again in each connection. To
        let an attempt go is for the session to say.
        """
        return await self._until(files, lambda: not files.is_refused)

    async def _until(self, files: GrowingFiles, is_so: Callable[[], bool]) -> bool:
        """Waits until something is so of these files."""
        key = _id(files.ref)
        while self._files.get(key) is files:
            if is_so():
                return True
            await self._waiting.setdefault(key, asyncio.Event()).wait()
        return False

    async def run(self) -> None:
        """Keeps a stream open while there is a connection. Never returns."""
        failures = 0
        while True:
            stubs = await self._link.stubs()
            try:
                await self._stream(stubs)
            except RunyardError as error:
                journal.info("append_stream_ended", reason=error.reason, why=error.message)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            failures = 0 if self._has_heard else failures + 1
            await asyncio.sleep(_RETRY.delay_s(max(1, failures), random.random()))  # noqa: S311

    async def _stream(self, stubs: Stubs) -> None:
        """Serves one stream until it breaks."""
        self._has_heard = False
        self._blocked.clear()
        for key, files in self._files.items():
            files.rewind()
            self._grown[key] = None
            self._look_again(key)
        self._wake.set()
        call = AppendCall(stubs.agent.AppendFiles, stubs.metadata)
        async with cancelling(call):
            writing = asyncio.create_task(self._write(call), name="append")
            try:
                while (response := await call.read()) is not None:
                    self._has_heard = True
                    self._acknowledge(response)
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, call: AppendCall) -> None:
        """Sends what has grown, attempt by attempt in turns, within the window."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._grown:
                key = next(iter(self._grown))
                del self._grown[key]
                files = self._files.get(key)
                if files is not None and await self._send_turn(call, files):
                    self._grown[key] = None  # there is more: at the end of the line

    async def _send_turn(self, call: AppendCall, files: GrowingFiles) -> bool:
        """One attempt's turn; True where it has more to send."""
        sent_bytes = 0
        while not files.is_refused:
            room = self.window_bytes - sum(f.unacknowledged_bytes for f in self._files.values())
            if room <= 0:
                self._blocked.add(_id(files.ref))
                return False
            request = pb.AppendFilesRequest(ref=files.ref)
            request_bytes = self._fill(request, files, room)
            if not request.pieces:
                return False
            await call.write(request)
            sent_bytes += request_bytes
            if sent_bytes >= _TURN_BYTES:
                return True
        return False

    def _fill(self, request: pb.AppendFilesRequest, files: GrowingFiles, room_bytes: int) -> int:
        """Adds the next pieces of an attempt: bytes of the log travel with the records that name
        them. Gives their size in bytes."""
        size_bytes = 0
        try:
            while size_bytes < min(room_bytes, LOG_CHUNK_BYTES):
                piece = files.next_piece(room_bytes - size_bytes)
                if piece is None:
                    break
                request.pieces.add(
                    file=piece.file, offset_bytes=piece.offset_bytes, data=piece.data
                )
                size_bytes += len(piece.data)
        except OSError as error:
            journal.failure("spool_unreadable", error, run=files.ref.run)
            files.give_up()
            self.nudge(files)
        return size_bytes

    def _acknowledge(self, response: pb.AppendFilesResponse) -> None:
        """The daemon has so much of one file."""
        key = _id(response.ref)
        files = self._files.get(key)
        if files is None:
            return
        if response.is_superseded:
            files.is_refused = True
        elif files.acknowledge(response.file, response.committed_bytes):
            self._grown[key] = None
        if files.is_complete:
            self._look_again(key)
        if self._blocked:
            self._grown.update(dict.fromkeys(self._blocked))
            self._blocked.clear()
        if self._grown:
            self._wake.set()


def _id(ref: pb.AttemptRef) -> _Id:
    """What names an attempt's grant."""
    return ref.run, ref.attempt, ref.epoch
