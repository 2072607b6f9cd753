"""A log on its way: a sender that frees what was acknowledged, a lossy link, a receiver that dies.

Earns its place because a byte is lost only where several things meet: an answer before the sync, a
crash of the process, then one of the machine. The receiver is the appender's own `GrowingFile` on a
real file; the disk below it keeps apart what was synced. Each seeded bug replaces one of its steps
by a plausible mistake and must be found. Not covered: a daemon killed between a failed sync and the
next one, of which nothing on the disk tells.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)

from runyard_daemon.logs.growing import GrowingFile
from runyard_daemon.logs.layout import AttemptKey, LogFile, open_to_append
from support.stateful import check

KEY = AttemptKey("iris", "iris_1_00000001", 1)
# No byte is 0 and neighbours differ, so that a hole or a shift shows.
JOB_OUTPUT = bytes(1 + n * 7 % 251 for n in range(4000))


class Disk:
    """What of a file a power loss leaves: what was synced, without what a failed sync dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.platter = b""
        self.fails_next = False
        self.dropped: tuple[int, int] | None = None
        self._real_ftruncate = os.ftruncate
        self._real_pwrite = os.pwrite

    def fdatasync(self, fd: int) -> None:
        content = bytearray(self.path.read_bytes())
        if self.fails_next:
            # The kernel marks the pages clean: the next sync does not write them.
            self.fails_next = False
            self.dropped = (len(self.platter), len(content))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.dropped is not None:
            start, end = self.dropped
            content[start:end] = bytes(len(content[start:end]))
        self.platter = bytes(content)

    def ftruncate(self, fd: int, length: int) -> None:
        self._real_ftruncate(fd, length)
        if self.dropped is not None:
            start, end = self.dropped[0], min(self.dropped[1], length)
            self.dropped = (start, end) if start < end else None

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        written = self._real_pwrite(fd, data, offset)
        if self.dropped is not None and offset <= self.dropped[0] < offset + written:
            start, end = offset + written, self.dropped[1]
            self.dropped = (start, end) if start < end else None
        return written

    def lose_power(self) -> None:
        self.path.write_bytes(self.platter)
        self.dropped = None


class LogPush(RuleBasedStateMachine):
    """Sender, link and receiver of one file."""

    receiver_class: type[GrowingFile] = GrowingFile

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-")
        self.root = Path(self.folder.name)
        self.disk = Disk(self.root.joinpath(*KEY.parts, LogFile.STDOUT.value))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fdatasync", self.disk.fdatasync)
        self.patch.setattr(os, "ftruncate", self.disk.ftruncate)
        self.patch.setattr(os, "pwrite", self.disk.pwrite)
        self.produced = 0
        self.acknowledged = 0
        self.wire: list[tuple[int, bytes]] = []
        self.receiver = self.start_receiver()

    def teardown(self) -> None:
        self.receiver.close()
        self.patch.undo()
        self.folder.cleanup()

    def start_receiver(self) -> GrowingFile:
        return self.receiver_class(open_to_append(self.root, KEY, LogFile.STDOUT))

    def content(self) -> bytes:
        return self.disk.path.read_bytes()

    @rule(count=st.integers(1, 60), back=st.integers(0, 40))
    def send(self, count: int, back: int) -> None:
        """The job prints; the sender sends from a little before what it knows to be stored.

        What was acknowledged is freed from its spool and can't be sent again.
        """
        self.produced = min(self.produced + count, len(JOB_OUTPUT))
        start = max(self.acknowledged, self.produced - count - back)
        self.wire.append((start, JOB_OUTPUT[start : self.produced]))
        self.wire = self.wire[-8:]

    @rule(
        picks=st.lists(st.integers(0, 7), min_size=1, max_size=4),
        end=st.sampled_from(["answered", "answer lost", "killed before sync", "killed after sync"]),
    )
    def receive(self, picks: list[int], end: str) -> None:
        """A batch as the appender takes it; pieces come in any order, twice, or never."""
        for pick in picks:
            if pick < len(self.wire):
                self.receiver.take(*self.wire[pick])
        if end != "killed before sync":
            try:
                self.receiver.sync()
            except OSError:
                end = "failed"
        if end == "answered":
            self.acknowledged = max(self.acknowledged, self.receiver.durable_bytes)
        elif end.startswith("killed") and self.disk.dropped is None:
            self.restart()

    def restart(self) -> None:
        """The daemon is killed and starts again: the kernel still has all it wrote."""
        self.receiver.close()
        self.receiver = self.start_receiver()

    @rule()
    def lose_power(self) -> None:
        self.receiver.close()
        self.disk.lose_power()
        self.receiver = self.start_receiver()

    @rule()
    def break_next_sync(self) -> None:
        self.disk.fails_next = True

    @rule()
    def catch_up(self) -> None:
        """With a link and a disk that work, all arrives, from what the receiver says it has."""
        self.disk.fails_next = False
        self.receiver.take(0, b"")
        self.receiver.sync()
        start = self.receiver.durable_bytes
        assert start >= self.acknowledged, "the receiver asks for bytes that were freed"
        self.receiver.take(start, JOB_OUTPUT[start : self.produced])
        self.receiver.sync()
        self.acknowledged = self.receiver.durable_bytes
        assert self.content() == JOB_OUTPUT[: self.produced]

    @invariant()
    def stored_is_what_the_job_wrote(self) -> None:
        assert JOB_OUTPUT.startswith(self.content())
        assert JOB_OUTPUT.startswith(self.disk.platter)

    @invariant()
    def acknowledged_survives_power_loss(self) -> None:
        assert self.acknowledged <= len(self.disk.platter)


class AnswersBeforeSync(GrowingFile):
    def take(self, offset_bytes: int, data: bytes | memoryview) -> None:
        super().take(offset_bytes, data)
        self.durable_bytes = self.written_bytes


class TrustsWhatItFinds(GrowingFile):
    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.durable_bytes = self.written_bytes


class AppendsWhateverComes(GrowingFile):
    def take(self, offset_bytes: int, data: bytes | memoryview) -> None:
        super().take(self.written_bytes, data)


class WritesBehindGaps(GrowingFile):
    def take(self, offset_bytes: int, data: bytes | memoryview) -> None:
        os.pwrite(self._fd, data, offset_bytes)
        self.written_bytes = max(self.written_bytes, offset_bytes + len(data))


class SyncsAgainAfterAnError(GrowingFile):
    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            os.fdatasync(self._fd)
        self.durable_bytes = self.written_bytes


def check_receiver(receiver: type[GrowingFile], examples: int, *, is_seeded: bool) -> None:
    """Runs the machine with a receiver."""
    machine = type("Machine", (LogPush,), {"receiver_class": receiver})
    check(machine, examples, steps=30, is_seeded=is_seeded)


def test_no_log_byte_is_lost_doubled_or_moved_whatever_dies() -> None:
    check_receiver(GrowingFile, 80, is_seeded=False)


@pytest.mark.slow
def test_no_log_byte_is_lost_doubled_or_moved_in_many_histories() -> None:
    check_receiver(GrowingFile, 600, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        AnswersBeforeSync,
        pytest.param(TrustsWhatItFinds, marks=pytest.mark.slow),
        AppendsWhateverComes,
        WritesBehindGaps,
        SyncsAgainAfterAnError,
    ],
)
def test_log_model_finds_a_broken_receiver(bug: type[GrowingFile]) -> None:
    with pytest.raises(AssertionError):
        check_receiver(bug, 3_000, is_seeded=True)
