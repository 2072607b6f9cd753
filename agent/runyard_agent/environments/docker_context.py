"""The build context as an archive: what a Dockerfile's COPY can take, the same bytes each time."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from docker.utils import exclude_paths

DOCKERFILE = ".runyard.dockerfile"
_IGNORE_FILE = ".dockerignore"


def write_context(folder: str | None, dockerfile: str, to: IO[bytes]) -> None:
    """Writes the archive: the files of a folder, if there is one, and the Dockerfile.

    `.dockerignore` counts. Links stay links; what is neither file, folder nor link is left out.
    """
    with tarfile.open(fileobj=to, mode="w", format=tarfile.PAX_FORMAT) as tar:
        ignored = _ignore_lines(folder)
        for path in _paths(folder, ignored) if folder is not None else ():
            _add(tar, os.path.join(folder or "", path), path)
        # The engine itself removes from the context what is ignored: the Dockerfile must be, so
        # that COPY . does not take it.
        own = [DOCKERFILE] if ignored else [DOCKERFILE, _IGNORE_FILE]
        _add_text(tar, _IGNORE_FILE, "\n".join([*ignored, *own, ""]))
        _add_text(tar, DOCKERFILE, dockerfile)


def _ignore_lines(folder: str | None) -> list[str]:
    """What the folder's .dockerignore says."""
    if folder is None:
        return []
    path = Path(folder, _IGNORE_FILE)
    if path.is_symlink() or not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _paths(folder: str, ignored: list[str]) -> Iterator[str]:
    """The paths of the context, in order."""
    patterns = [line.strip() for line in ignored]
    wanted = [line for line in patterns if line and not line.startswith("#")]
    for path in sorted(exclude_paths(folder, wanted)):
        if path not in (_IGNORE_FILE, DOCKERFILE):
            yield path


def _add(tar: tarfile.TarFile, path: str, name: str) -> None:
    """Adds one file, folder or link, without owner and times."""
    status = os.lstat(path)
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode) & 0o755
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        tar.addfile(info)
    elif stat.S_ISREG(status.st_mode):
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
