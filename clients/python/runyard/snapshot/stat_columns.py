"""What `lstat` says of many paths at once, column by column, so that two readings compare as bytes.

On Linux the calls for many paths go to `statx` straight from C loops, which takes a third less time
than `os.stat` and makes no object for a path; elsewhere `os.stat` fills the same columns.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, repeat
from operator import ne

# One signature: inode, size, change time and modification time (seconds, nanoseconds). The
# change time moves with every change of content, mode or owner, and nobody can set it.
Signature = tuple[int, int, int, int, int, int]
SIGNATURE_FIELDS = 6
NO_SIGNATURE: Signature = (0, 0, 0, 0, 0, 0)
# Stands for a file that may change again without a new change time: equal to none.
UNTRUSTED_SIGNATURE: Signature = (0, 0, 0, 1, 0, 1)

_NS = 1_000_000_000
_CLOCK_STEP_NS = 20_000_000  # twice the kernel's slowest tick
_COARSE_CLOCK_STEP_NS = 2_000_000_000  # file systems that keep no fractions of seconds
_QUAD_MASK = (1 << 64) - 1
_BATCH = 512
_COMPARED = 256  # signatures at a time, to find the few that differ
# Up to so many paths, calling statx saves less than loading ctypes for it costs.
_FEW = 1000

_STATX_BYTES = 256
_STATX_QUADS = _STATX_BYTES // 8
_STATX_FIELDS = (4, 5, 12, 13, 14, 15)  # of 64 bits each, in the order of a Signature
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_WANTED = 0x40 | 0x80 | 0x100 | 0x200  # modification and change time, inode, size


def signature_of(status: os.stat_result) -> Signature:
    """The signature in the answer of `os.stat`."""
    changed_s, changed_ns = divmod(status.st_ctime_ns, _NS)
    modified_s, modified_ns = divmod(status.st_mtime_ns, _NS)
    return (
        status.st_ino & _QUAD_MASK,
        status.st_size,
        changed_s & _QUAD_MASK,
        changed_ns,
        modified_s & _QUAD_MASK,
        modified_ns,
    )


def is_trusted(signature: Signature, read_at_ns: int) -> bool:
    """Whether a later change of what was read at this time must give another signature.

    The clock of a file system moves in steps: a file that changed in the same step in which it
    was read could change once more and look the same. `read_at_ns` is nanoseconds since 1970,
    taken before the reading.
    """
    changed_s, changed_ns = signature[2], signature[3]
    step_ns = _CLOCK_STEP_NS if changed_ns else _COARSE_CLOCK_STEP_NS
    return changed_s * _NS + changed_ns + step_ns < read_at_ns


class StatColumns:
    """The signatures of numbered paths. One array for each field of a signature."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: Sequence[array[int]] | None = None) -> None:
        self.arrays = list(arrays) if arrays else [array("Q") for _ in range(SIGNATURE_FIELDS)]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def append(self, signature: Signature) -> None:
        """Adds the signature of the next path."""
        for column, value in zip(self.arrays, signature, strict=True):
            column.append(value)

    def extend(self, other: StatColumns, start: int, end: int) -> None:
        """Adds the signatures `[start, end)` of another set of columns."""
        for column, source in zip(self.arrays, other.arrays, strict=True):
            column.extend(source[start:end])

    def signature(self, number: int) -> Signature:
        """The signature of one path."""
        a, b, c, d, e, f = (column[number] for column in self.arrays)
        return a, b, c, d, e, f

    def differences(self, now: StatColumns) -> list[int]:
        """The numbers of the paths whose signatures differ, in order."""
        found: set[int] = set()
        for mine, theirs in zip(self.arrays, now.arrays, strict=True):
            if mine == theirs:
                continue
            for start in range(0, len(mine), _COMPARED):
                before, after = mine[start : start + _COMPARED], theirs[start : start + _COMPARED]
                if before != after:
                    numbers = range(start, start + len(before))
                    found.update(compress(numbers, map(ne, before, after)))
        return sorted(found)


def read_columns(root_fd: int, paths: Sequence[bytes]) -> StatColumns:
    """The signatures of these paths below an open folder now; links are not followed.

    A path that is gone or can't be looked at has NO_SIGNATURE.
    """
    is_worth_it = len(paths) > _FEW and sys.platform == "linux" and sys.byteorder == "little"
    statx = _statx() if is_worth_it else None
    if statx is None:
        return _read_portably(root_fd, paths)
    columns = StatColumns()
    for batch in _batches(paths):
        for column, values in zip(columns.arrays, statx(root_fd, batch), strict=True):
            column.frombytes(values)
    return columns


def _batches(paths: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The paths in pieces that the buffer of the answers has room for."""
    for start in range(0, len(paths), _BATCH):
        yield paths[start : start + _BATCH]


def _read_portably(root_fd: int, paths: Sequence[bytes]) -> StatColumns:
    """`read_columns` with nothing but the standard library's `os.stat`."""
    columns = StatColumns()
    for path in paths:
        try:
            status = os.stat(path, dir_fd=root_fd, follow_symlinks=False)
        except OSError:
            columns.append(NO_SIGNATURE)
        else:
            columns.append(signature_of(status))
    return columns


def _statx() -> Callable[[int, Sequence[bytes]], list[bytes]] | None:
    """A function that asks for a batch of paths, or None where the C library has no statx."""
    import ctypes  # 4 ms of start-up, for those only that have many files

    try:
        # PyDLL keeps the interpreter's lock: giving it up 20,000 times costs more than the calls.
        # And no `argtypes`: bytes and small numbers pass without, in a third of the time.
        call = ctypes.PyDLL(None).statx
    except AttributeError:
        return None
    buffer = (ctypes.c_char * _STATX_BYTES * _BATCH)()
    answers = list(buffer)
    quads = memoryview(buffer).cast("B").cast("Q")

    def read(root_fd: int, batch: Sequence[bytes]) -> list[bytes]:
        ctypes.memset(buffer, 0, len(batch) * _STATX_BYTES)
        calls = map(
            call,
            repeat(root_fd),
            batch,
            repeat(_AT_SYMLINK_NOFOLLOW),
            repeat(_STATX_WANTED),
            answers,
        )
        deque(calls, maxlen=0)
        end = len(batch) * _STATX_QUADS
        return [quads[field:end:_STATX_QUADS].tobytes() for field in _STATX_FIELDS]

    return read
