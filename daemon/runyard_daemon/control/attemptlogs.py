"""The growing files of attempts, as the rest of control needs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runyard_daemon.logs.appender import Appender
from runyard_daemon.logs.growing import GrowingFileReader
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.logs.reader import LogReader


class AttemptLogs:
    """Appender and reader of one data directory. Made in the running event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.appender = Appender(root)
        self.reader = LogReader(root, self.appender.board)

    async def complete(self, key: AttemptKey, lengths: Mapping[str, int]) -> None:
        """Waits until all files of an attempt have durably reached their final lengths."""
        wanted = {LogFile(name): length_bytes for name, length_bytes in lengths.items()}
        board = self.appender.board
        progress = board.join(key)
        try:
            while True:
                changes = progress.changes
                if await self.appender.is_complete(key, wanted):
                    return
                await progress.wait_beyond(changes, None)
        finally:
            board.leave(key)

    def seal(self, key: AttemptKey) -> None:
        """Ends the following of a log; the record that says so must be durable."""
        self.appender.seal(key)

    def tail(self, key: AttemptKey, file: LogFile, max_bytes: int) -> bytes:
        """The last bytes of a file, none where there is no file. Blocks shortly."""
        return self.reader.tail(key, file, max_bytes)

    def read(self, key: AttemptKey, file: LogFile, offset_bytes: int, max_bytes: int) -> bytes:
        """Bytes of a file from an offset on; none at its end. Blocks shortly."""
        reader = GrowingFileReader(self.root, key, file)
        try:
            return reader.read(offset_bytes, max_bytes)
        finally:
            reader.close()
