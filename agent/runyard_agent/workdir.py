"""The job's working folder: laid out from a snapshot, and compared with it afterwards.

Files are made through directory descriptors, component by component, and no link is followed: a
folder that somebody swaps for a link in the middle of it leads nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runyard_agent.tree import FileState, Node, walk
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, DigestMismatch, RunyardError, UnsafePath
from runyard_contract.manifest import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    decode_chunks,
    iterate,
)
from runyard_contract.paths import create_file_at, shown, write_all

OWN_FOLDERS = ("outputs", "logs")
"""Folders of a job that are shipped by themselves."""
_CACHES = frozenset({"__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".git"})
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Plan = list[tuple[tuple[str, ...], Entry]]
"""All entries of a snapshot with their paths, parents before children."""


class Blobs(Protocol):
    """Where content comes from; every byte was verified against its digest."""

    def read(self, digest: str) -> bytes:
        """One blob's bytes."""

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int) -> int:
        """Makes a new file with a blob's bytes; returns their number."""


class LayoutFailed(Exception):
    """The working folder can't be laid out: a sentence for people, and what to try."""

    def __init__(self, message: str, advice: str, metadata: Mapping[str, str]):
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.metadata = dict(metadata)


class Abandoned(Exception):
    """Nobody wants the layout any more."""


@dataclass(frozen=True, slots=True)
class InlineBlobs:
    """Manifests that came with the lease, before another source."""

    inline: Mapping[str, bytes]
    source: Blobs

    def read(self, digest: str) -> bytes:
        """The blob, verified; what came with the lease costs no look at the disk."""
        data = self.inline.get(digest)
        if data is None:
            return self.source.read(digest)
        if digest_bytes(data) != digest:
            raise DigestMismatch(f"a manifest does not have its digest {digest}", digest=digest)
        return data

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int) -> int:
        """Makes a new file with a blob's bytes; returns their number."""
        return self.source.copy_to(digest, dir_fd, name, mode)


@dataclass(frozen=True, slots=True)
class NoBlobs:
    """An empty source, for runs without a snapshot."""

    def read(self, digest: str) -> bytes:
        """Raises BlobMissing."""
        raise BlobMissing.of([digest])

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int) -> int:
        """Raises BlobMissing."""
        raise BlobMissing.of([digest])


def plan(root_digest: str, read: Callable[[str], bytes]) -> Plan:
    """All entries of a snapshot; every rule of a manifest is checked again here."""
    return list(iterate(root_digest, read))


def contents(entries: Plan) -> dict[str, str]:
    """The files and links of a plan by path; the digest of a file's bytes where it names one."""
    return {
        "/".join(path): entry.digest
        if isinstance(entry, FileEntry) and not entry.is_chunked
        else ""
        for path, entry in entries
        if not isinstance(entry, DirectoryEntry)
    }


def size_bytes(entries: Plan) -> int:
    """Sum of the sizes of all files of a plan."""
    return sum(entry.size_bytes for _, entry in entries if isinstance(entry, FileEntry))


@dataclass(slots=True)
class WorkIndex:
    """The files of a working folder as they were before the job: by path, what lstat said."""

    files: dict[str, FileState] = field(default_factory=dict)

    def save(self, path: str) -> None:
        """Writes it to a file, not synced."""
        content = {k: (v.size_bytes, v.mtime_ns, v.inode) for k, v in self.files.items()}
        with open(path, "wb", buffering=0) as file:
            write_all(file.fileno(), json.dumps(content).encode("ascii"))

    @classmethod
    def load(cls, path: str) -> WorkIndex:
        """Reads it; empty where it is missing or damaged (then all files count as new)."""
        try:
            content = json.loads(Path(path).read_bytes())
            return cls({name: FileState(*values) for name, values in content.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()


def lay_out(
    entries: Iterable[tuple[tuple[str, ...], Entry]],
    blobs: Blobs,
    work: str,
    is_wanted: Callable[[], bool] = lambda: True,
) -> WorkIndex:
    """Makes the working folder at `work`, which must not exist, with outputs/ and logs/ in it.

    Raises LayoutFailed, and Abandoned once `is_wanted` says no. What was made by then stays.
    """
    index = WorkIndex()
    folders: list[tuple[tuple[str, ...], int]] = []
    path: tuple[str, ...] = ()
    try:
        os.mkdir(work, 0o755)
        folders.append(((), os.open(work, _FOLDER_FLAGS)))
        for path, entry in entries:
            if not is_wanted():
                raise Abandoned
            while folders[-1][0] != path[:-1]:
                os.close(folders.pop()[1])
            _make(entry, path, blobs, folders, index)
        path = ()
        for name in OWN_FOLDERS:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folders[0][1])
    except OSError as error:
        raise _failed("/".join(path), error) from None
    except RunyardError as error:
        raise LayoutFailed(
            f"the snapshot can't be laid out: {error.message}",
            error.hint or "submit again",
            error.metadata,
        ) from error
    finally:
        for _, fd in folders:
            os.close(fd)
    return index


def _make(
    entry: Entry,
    path: tuple[str, ...],
    blobs: Blobs,
    folders: list[tuple[tuple[str, ...], int]],
    index: WorkIndex,
) -> None:
    """Makes one entry in the innermost open folder."""
    fd = folders[-1][1]
    if isinstance(entry, DirectoryEntry):
        os.mkdir(entry.name, 0o755, dir_fd=fd)
        folders.append((path, os.open(entry.name, _FOLDER_FLAGS, dir_fd=fd)))
        return
    if isinstance(entry, LinkEntry):
        os.symlink(entry.target, entry.name, dir_fd=fd)
    else:
        mode = 0o755 if entry.is_executable else 0o644
        if entry.is_chunked:
            _join_chunks(entry, blobs, fd, mode)
        else:
            blobs.copy_to(entry.digest, fd, entry.name, mode)
    status = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
    if isinstance(entry, FileEntry) and status.st_size != entry.size_bytes:
        raise DigestMismatch(
            f"{shown('/'.join(path))!r} has {status.st_size} bytes, not {entry.size_bytes}",
            path=shown("/".join(path)),
        )
    index.files["/".join(path)] = FileState.of(status)


def _join_chunks(entry: FileEntry, blobs: Blobs, dir_fd: int, mode: int) -> None:
    """Makes a large file from its chunks."""
    fd = create_file_at(dir_fd, entry.name, mode)
    try:
        for digest, _ in decode_chunks(blobs.read(entry.digest)):
            write_all(fd, blobs.read(digest))
    finally:
        os.close(fd)


def _failed(path: str, error: OSError) -> LayoutFailed:
    """The error for a fault of the node's file system."""
    what = shown(path) or "the working folder"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return LayoutFailed(
            f"the disk of the node is full: {what} could not be written",
            "free some space on the node (`runyard doctor` shows where its data lies), "
            "then submit again",
            {"path": what, "errno": errno.errorcode[error.errno]},
        )
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return LayoutFailed(
            f"{what} was replaced by a link or a file while the snapshot was laid out",
            "see what else writes to the agent's folder on the node",
            {"path": what},
        )
    return LayoutFailed(
        f"{what} can't be written on the node: {error.strerror}",
        "see the agent's log on the node",
        {"path": what, "errno": errno.errorcode.get(error.errno or 0, "")},
    )


def changes(work: str, index: WorkIndex, is_ignored: Callable[[str, bool], bool]) -> Iterator[Node]:
    """Files that the job made or changed outside its own folders, by path.

    Without caches and without what `is_ignored(path, is_folder)` keeps out.
    """

    def skip(path: str, is_folder: bool) -> bool:
        name = path.rpartition("/")[2]
        if is_folder:
            if path in OWN_FOLDERS or name in _CACHES:
                return True
            return os.path.lexists(f"{work}/{path}/pyvenv.cfg") or is_ignored(path, True)
        return name.endswith(".pyc")

    for node in walk(work, skip):
        if node.is_file and index.files.get(node.path) != node.state:
            if not is_ignored(node.path, False):
                yield node


def open_file(root: str, path: str) -> int:
    """Opens a plain file below a folder for reading, without following a link on the way.

    Raises UnsafePath for a link or anything else that is not a plain file, OSError as `open`.
    """
    fd = os.open(root, _FOLDER_FLAGS)
    try:
        *parents, name = path.split("/")
        for parent in parents:
            below = os.open(parent, _FOLDER_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = below
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        found = os.open(name, flags, dir_fd=fd)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise UnsafePath(f"{shown(path)!r} leads through a link", path=shown(path)) from None
        raise
    finally:
        os.close(fd)
    if not Node(path, os.fstat(found)).is_file:
        os.close(found)
        raise UnsafePath(f"{shown(path)!r} is not a plain file", path=shown(path))
    return found
