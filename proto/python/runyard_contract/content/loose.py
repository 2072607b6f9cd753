"""Blobs that have a file each, at `ab/cdef…`: large ones, and few at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from runyard_contract.content.pack import READ_FLAGS
from runyard_contract.digest import is_digest
from runyard_contract.limits import CHUNKED_ABOVE_BYTES


class NoPlainFile(Exception):
    """Something else lies in a blob's place, or a file that no blob can be."""


def location(digest: str) -> str:
    """The path of a blob below the store's folder."""
    return f"{digest[:2]}/{digest[2:]}"


def size_bytes(root_fd: int, digest: str) -> int | None:
    """The size of the plain file for this digest, None where there is none."""
    try:
        status = os.stat(location(digest), dir_fd=root_fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read(root_fd: int, digest: str) -> bytes | None:
    """The bytes of the file, not verified; None: there is none. Raises NoPlainFile."""
    try:
        fd = os.open(location(digest), READ_FLAGS, dir_fd=root_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        raise NoPlainFile from None
    try:
        return _read_open(fd)
    finally:
        os.close(fd)


def _read_open(fd: int) -> bytes:
    """All bytes of an open blob. Raises NoPlainFile where it can be none."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > CHUNKED_ABOVE_BYTES:
        raise NoPlainFile
    data = os.read(fd, status.st_size)
    if len(data) == status.st_size:
        return data
    pieces = [data]
    while pieces[-1]:  # a read may give less than asked for
        pieces.append(os.read(fd, CHUNKED_ABOVE_BYTES))
    return b"".join(pieces)


def put_aside(root_fd: int, digest: str, path: str) -> None:
    """Moves what lies in a blob's place to another path below the store's folder."""
    with contextlib.suppress(FileNotFoundError):  # another reader was faster
        os.rename(location(digest), path, src_dir_fd=root_fd, dst_dir_fd=root_fd)


def remove(root_fd: int, digest: str) -> bool:
    """Removes the file; False where there is none."""
    try:
        os.unlink(location(digest), dir_fd=root_fd)
    except FileNotFoundError:
        return False
    return True


def rename(root_fd: int, temporary: str, digest: str) -> bool:
    """Gives a written file its name. True where the folder for it had to be made."""
    name = location(digest)
    try:
        os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name[:2], 0o700, dir_fd=root_fd)
        os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
        return True
    return False


def walk(root_fd: int) -> Iterator[tuple[str, int, int]]:
    """All of them: digest, size in bytes, second of storing (since the Unix epoch)."""
    for folder in sorted(os.listdir(root_fd)):
        if len(folder) != 2:
            continue
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(folder, flags, dir_fd=root_fd)
        except OSError:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if is_digest(folder + entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        yield folder + entry.name, status.st_size, int(status.st_mtime)
        finally:
            os.close(fd)
