"""Lays out a sealed environment in a folder of this node. Blocks.

Files are made through directory descriptors, no link is followed and nothing that is there is
replaced: a description that was made to climb out of the folder can't.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from runyard_agent.environments.relocation import NotRelocatable, check_prefix, put_in
from runyard_agent.environments.sealing import OWN_NAMES
from runyard_agent.workdir import Abandoned, Blobs
from runyard_contract.errors import SealedInvalid
from runyard_contract.manifest import decode_chunks
from runyard_contract.paths import shown, write_all
from runyard_contract.sealed import Sealed, SealedFile

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def place(
    sealed: Sealed,
    blobs: Blobs,
    folder: Path,
    *,
    keeps_existing: bool = False,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Makes all files and links of a sealed environment in `folder`, which exists.

    Args:
        blobs: verify each content against its digest.
        keeps_existing: what is there already stays as it is; else it is an error.
        is_wanted: asked before each file.

    Raises SealedInvalid, what `blobs` raises, Abandoned once it is not wanted, OSError.
    """
    prefix = os.fsencode(folder)
    try:
        check_prefix(prefix)
        with _Placer(folder, prefix, blobs, keeps_existing=keeps_existing) as placer:
            for file in sealed.files:
                if not is_wanted():
                    raise Abandoned
                placer.file(file)
            for link in sealed.links:
                placer.link(link.path, link.target)
    except NotRelocatable as error:
        raise SealedInvalid.because(error.why) from None


class _Placer(contextlib.AbstractContextManager["_Placer"]):
    """Keeps the folder open that was written to last."""

    def __init__(self, folder: Path, prefix: bytes, blobs: Blobs, *, keeps_existing: bool) -> None:
        self._prefix = prefix
        self._blobs = blobs
        self._keeps_existing = keeps_existing
        self._root_fd = os.open(folder, _FOLDER_FLAGS)
        self._parent = ""
        self._fd = os.dup(self._root_fd)

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)
        os.close(self._root_fd)

    def file(self, file: SealedFile) -> None:
        """Makes one file."""
        name = self._enter(file.path)
        mode = 0o755 if file.is_executable else 0o644
        try:
            fd = os.open(name, _FILE_FLAGS, mode, dir_fd=self._fd)
        except FileExistsError:
            self._exists(file.path)
            return
        try:
            for piece in self._pieces(file):
                write_all(fd, piece)
        finally:
            os.close(fd)

    def link(self, path: str, target: str) -> None:
        """Makes one link."""
        name = self._enter(path)
        try:
            os.symlink(target, name, dir_fd=self._fd)
        except FileExistsError:
            self._exists(path)

    def _exists(self, path: str) -> None:
        if not self._keeps_existing:
            raise SealedInvalid.because(f"{shown(path)} comes twice")

    def _enter(self, path: str) -> str:
        """Makes and opens the folder of a path, component by component; gives the name in it."""
        if path in OWN_NAMES:
            raise SealedInvalid.because(f"{path} is a name of runyard's own")
        parent, _, name = path.rpartition("/")
        if parent != self._parent:
            fd = os.dup(self._root_fd)
            try:
                for part in parent.split("/") if parent else ():
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                    below = os.open(part, _FOLDER_FLAGS, dir_fd=fd)
                    os.close(fd)
                    fd = below
            except BaseException:
                os.close(fd)
                raise
            os.close(self._fd)
            self._fd, self._parent = fd, parent
        return name

    def _pieces(self, file: SealedFile) -> Iterator[bytes]:
        """The bytes of a file as they are in this folder."""
        if file.placement is not None:
            data = b"".join(self._stored(file))
            try:
                yield put_in(data, self._prefix, file.placement)
            except NotRelocatable as error:
                raise SealedInvalid.because(f"{shown(file.path)} {error.why}") from None
            return
        yield from self._stored(file)

    def _stored(self, file: SealedFile) -> Iterator[bytes]:
        """The bytes of a file as they are stored, of the size that the description says."""
        digests = [file.digest]
        if file.is_chunked:
            digests = [digest for digest, _ in decode_chunks(self._blobs.read(file.digest))]
        left = file.size_bytes
        for digest in digests:
            data = self._blobs.read(digest)
            left -= len(data)
            yield data
        if left:
            raise SealedInvalid.because(f"{shown(file.path)} has another size than it says")
