"""Files that a script hands to its run: copied whole into the run's folder, sent from there."""

from __future__ import annotations

import os
import stat
from typing import IO, Any, Iterator, Union

PathOrStream = Union[str, "os.PathLike[str]", IO[Any]]

_COPY_BYTES = 1 << 20
_NAME_MAX_BYTES = 1024
_PART_MAX_BYTES = 255


def check_file_name(name: str) -> str:
    """Gives back `name` if it can name a file of a run, else raises `ValueError`.

    A name is a relative path with `/` between its parts, at most 1,024 bytes in UTF-8, without
    empty parts, `.`, `..`, backslashes and control characters.
    """
    if not isinstance(name, str) or not name:
        raise ValueError("a file of a run needs a name, such as 'outputs/model.pkl'")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise ValueError("%r can't name a file of a run: use a relative path" % name)
    if any(ord(character) < 32 or character == "\x7f" for character in name):
        raise ValueError("%r can't name a file of a run: it holds a control character" % name)
    sizes = [len(part.encode("utf-8")) for part in parts]  # UnicodeEncodeError is a ValueError
    if max(sizes) > _PART_MAX_BYTES or len(name.encode("utf-8")) > _NAME_MAX_BYTES:
        raise ValueError("%r... can't name a file of a run: it is too long" % name[:80])
    return name


def stage(job_dir: str, name: str, source: PathOrStream) -> None:
    """Copies a file or what a stream still holds to `files/<name>` in the job's folder.

    The file appears under its name in one step, whole; an earlier one of that name is replaced.
    Raises `ValueError` for a bad name or for what is not a regular file, `OSError` for the rest.
    """
    target = os.path.join(job_dir, "files", *check_file_name(name).split("/"))
    import tempfile  # 10 ms, for those only that upload

    fd, staged = tempfile.mkstemp(prefix=".upload-", dir=job_dir)
    try:
        with open(fd, "wb") as sink:
            _copy(source, sink)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(staged, target)
    except BaseException:
        os.unlink(staged)
        raise


def walk_folder(name: str, path: str) -> Iterator[tuple[str, str]]:
    """Yields (name in the run, path on disk) for each file below `path`, in order of names.

    Folders behind symbolic links are left out. Raises `NotADirectoryError` where `path` is none.
    """
    if not os.path.isdir(path):
        raise NotADirectoryError("%r is not a folder" % path)
    for parent, folders, files in os.walk(path):
        folders.sort()
        below = os.path.relpath(parent, path)
        parts = [name] if below == os.curdir else [name, *below.split(os.sep)]
        for file in sorted(files):
            yield "/".join([*parts, file]), os.path.join(parent, file)


def _copy(source: PathOrStream, sink: IO[bytes]) -> None:
    if isinstance(source, (str, os.PathLike)):
        # Asked before it is opened: opening a FIFO would wait for its writer for ever.
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise ValueError("%r is not a file" % os.fspath(source))
        with open(source, "rb") as opened:
            _drain(opened, sink)
    elif hasattr(source, "read"):
        _drain(source, sink)
    else:
        raise ValueError("a path or a stream is needed, not %s" % type(source).__name__)


def _drain(source: IO[Any], sink: IO[bytes]) -> None:
    while True:
        piece = source.read(_COPY_BYTES)
        if not piece:
            return
        sink.write(piece.encode("utf-8") if isinstance(piece, str) else piece)
