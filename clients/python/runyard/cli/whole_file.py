"""Files that appear under their name when they are whole and their bytes are on the disk."""

from __future__ import annotations

import contextlib
import os
from typing import IO, TYPE_CHECKING, Any

from runyard.cli.failure import UsageInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """A new file to write to, with mode 0600. Where the block raises, nothing is left of it.

    Raises UsageInvalid for one that exists, or that can't be made.
    """
    if file.exists():
        raise UsageInvalid(f"{file} exists", hint="name a file that does not exist yet")
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageInvalid(
            f"{file} can't be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from None
    try:
        with os.fdopen(fd, "wb") as written:
            yield written
            written.flush()
            os.fsync(written.fileno())
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def write_checked(pieces: Iterable[Any], written: IO[bytes]) -> Any | None:
    """Writes the data of what comes; gives the summary that comes last.

    None where it is missing, or where its digest is not that of what was written.
    """
    import blake3

    digest = blake3.blake3()
    summary = None
    for piece in pieces:
        written.write(piece.data)
        digest.update(piece.data)
        if piece.HasField("summary"):
            summary = piece.summary
    return summary if summary is not None and summary.digest == digest.hexdigest() else None
