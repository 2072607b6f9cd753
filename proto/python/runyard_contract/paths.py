"""Relative paths from outside, and file access below a directory that follows no link.

A path from outside is split once into components, every component is checked, and files are then
reached component by component with directory descriptors (`openat` with O_NOFOLLOW), so that
neither a spelling nor a link swapped in at the wrong moment leads out of the root. Paths are
never URLs: `%2e%2e` is a harmless literal name.

Names that cannot exist on every client (control characters, `:`, backslash, a trailing dot or
space, device names such as `CON`) are refused too: what is written on one system is read back on
the others.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from runyard_contract.errors import UnsafePath
from runyard_contract.limits import NAME_BYTES, PATH_BYTES, PATH_COMPONENTS

_UNSAFE_COMPONENT = (
    r"[\x00-\x1f\x7f-\x9f/\\:\ud800-\udfff]"
    r"|[. ]\Z"  # includes "." and ".."
    r"|\A\Z"
    r"|\A(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\.|\Z)"
)
_UNSAFE_TARGET = r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]"

# Windows has none of these; there only the checks of names are used.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)


def shown(path: str) -> str:
    r"""The path as it is safe to show: control characters and undecodable bytes escaped (\xff)."""
    raw = path.encode("utf-8", "surrogateescape" if _is_decodable(path) else "surrogatepass")
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_decodable(path: str) -> bool:
    """Whether all lone surrogates of the text stand for bytes (PEP 383)."""
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def _unsafe_component() -> re.Pattern[str]:
    """Finds what is unsafe in a name: compiled once, by those only that check names."""
    return re.compile(_UNSAFE_COMPONENT, re.IGNORECASE)


def check_component(name: str) -> str:
    """Returns the name when it is safe as one component of a path, else raises UnsafePath."""
    found = _unsafe_component().search(name)
    if found is None and (len(name) * 4 <= NAME_BYTES or len(name.encode()) <= NAME_BYTES):
        return name
    raise UnsafePath(
        f"the name {shown(name)!r} {_fault(name, found)}",
        hint="rename the file, or keep it out with a line in the ignore file",
        name=shown(name),
    )


def _fault(name: str, found: re.Match[str] | None) -> str:
    """What is wrong with a refused component."""
    if found is None:
        return f"is longer than {NAME_BYTES} bytes"
    if not name:
        return "is empty"
    if name in {".", ".."}:
        return "points to a directory, not into one"
    if "\ud800" <= found.group() <= "\udfff":
        return "is not UTF-8"
    if found.group() in {".", " "}:
        return "ends with a dot or a space, which Windows drops"
    if found.group() in {"/", "\\"}:
        return "holds a path separator"
    if found.group() == ":":
        return 'holds ":", which names a drive or a stream on Windows'
    if len(found.group()) == 1:
        return "holds a control character"
    return "is a device on Windows"


def split_rel(path: str) -> tuple[str, ...]:
    """The components of a relative path with `/` between them.

    Raises UnsafePath for an absolute or empty path, for `.`, `..`, empty or unsafe components, and
    where the path is too long or too deep. The path is never changed to make it fit.
    """
    parts = tuple(path.split("/"))
    if len(parts) > PATH_COMPONENTS or len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES:
        raise UnsafePath(
            f"the path {shown(path[:80])!r}… is longer than {PATH_BYTES} bytes "
            f"or deeper than {PATH_COMPONENTS} folders",
            path=shown(path[:80]),
        )
    try:
        for part in parts:
            check_component(part)
    except UnsafePath as error:
        why = "is absolute" if path.startswith("/") else error.message
        raise UnsafePath(
            f"the path {shown(path)!r} is refused: {why}",
            hint="use a path relative to the root, with / between its parts and without ..",
            path=shown(path),
        ) from None
    return parts


def link_stays_inside(parts_of_link: Sequence[str], target: str) -> bool:
    """Whether a symbolic link at this path (components from the root) can't lead out of the root.

    `..` counts only at the start of the target: behind a name it would have to be judged by where
    that name leads, which may be another link (`a/..` is the parent of what `a` links to). The
    folders above the link must be real folders, which a manifest guarantees.
    """
    if not target or target.startswith("/") or re.search(_UNSAFE_TARGET, target):
        return False
    if len(target.encode()) > PATH_BYTES:
        return False
    up = 0
    seen_name = False
    for part in target.split("/"):
        if part == "..":
            if seen_name:
                return False
            up += 1
        elif part not in {"", "."}:
            seen_name = True
    return up < len(parts_of_link)


def open_dir(root_fd: int, parts: Sequence[str], *, create: bool = False, mode: int = 0o755) -> int:
    """Opens the directory at these components below `root_fd`; the caller closes the descriptor.

    No link is followed: a component that is a link or no directory raises UnsafePath. With
    `create` missing directories are made. Else a missing one raises FileNotFoundError.
    """
    fd = os.dup(root_fd)
    try:
        for index, part in enumerate(parts):
            check_component(part)
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, mode, dir_fd=fd)
            below = _open_component(fd, parts, index)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_component(fd: int, parts: Sequence[str], index: int) -> int:
    """Opens one directory component without following a link."""
    try:
        return os.open(parts[index], os.O_RDONLY | _DIRECTORY | _NO_FOLLOW, dir_fd=fd)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        path = shown("/".join(parts[: index + 1]))
        raise UnsafePath(
            f"{path!r} is not a directory (a link is not followed)", path=path
        ) from None


def create_file_at(dir_fd: int, name: str, mode: int = 0o644) -> int:
    """Creates a new file in an open directory and returns its descriptor, opened for writing.

    Raises FileExistsError where anything of that name exists, a dangling link included.
    """
    check_component(name)
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode, dir_fd=dir_fd)


def write_file_at(dir_fd: int, name: str, data: bytes | memoryview, mode: int = 0o644) -> None:
    """Creates a new file with these bytes in an open directory (see `create_file_at`)."""
    fd = create_file_at(dir_fd, name, mode)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all bytes to a blocking descriptor (one `write` may take fewer)."""
    written = os.write(fd, data)
    if written == len(data):
        return
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[os.write(fd, rest) :]


def atomic_write(
    path: str | os.PathLike[str], data: bytes, *, sync: bool = True, mode: int = 0o600
) -> None:
    """Replaces a file by these bytes: a reader sees the old or the new content, never a part.

    With `sync` the content and the name are durable on return. Without it, both survive the end
    of the process but not a power loss.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode)
    try:
        try:
            write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        sync_dir(final.parent)


def make_folder(path: Path, mode: int) -> None:
    """Makes a folder, and those above it, unless it is there; new names are durable on return.

    Raises FileExistsError where something else has the name.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent, 0o777)
    path.mkdir(mode=mode, exist_ok=True)
    with contextlib.suppress(PermissionError):  # a folder that may be written but not read
        sync_dir(path.parent)


def sync_dir(path: str | os.PathLike[str]) -> None:
    """Makes the names in a directory durable (no effect on Windows, which can't)."""
    if not _DIRECTORY:
        return
    fd = os.open(path, os.O_RDONLY | _DIRECTORY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
