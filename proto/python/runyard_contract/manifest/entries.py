"""The values of a manifest, its format's constants, and the checks both directions share."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runyard_contract.digest import DIGEST_BYTES, is_digest
from runyard_contract.errors import ManifestInvalid, PathCollision
from runyard_contract.limits import CHUNKED_ABOVE_BYTES, PATH_BYTES
from runyard_contract.paths import shown

MAGIC = b"RYM\x01"
KIND_DIRECTORY = b"D"
KIND_INDEX = b"I"
KIND_CHUNKS = b"C"

TYPE_FILE, TYPE_LINK, TYPE_DIRECTORY = 1, 2, 3
FLAG_EXECUTABLE, FLAG_CHUNKED = 1, 2
COUNT = struct.Struct("<I")
ENTRY = struct.Struct("<BBH")  # type, flags, length of the name; the name follows
FILE_TAIL = struct.Struct(f"<Q{DIGEST_BYTES}s")  # size, digest
LINK_TAIL = struct.Struct("<H")  # length of the target; the target follows
DIRECTORY_TAIL = struct.Struct(f"<QQ{DIGEST_BYTES}s")  # files, size, digest
PART = struct.Struct(f"<HHQQ{DIGEST_BYTES}s")  # length of first name, entries, files, size, digest
HEADER_BYTES = len(MAGIC) + 1 + COUNT.size
SIZE_LIMIT_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file. `digest` is of its bytes, or, with `is_chunked`, of its chunk list."""

    name: str
    digest: str
    size_bytes: int
    is_executable: bool = False
    is_chunked: bool = False


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A symbolic link, with its target as written."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A directory: digest of its manifest; files (links count) and bytes of all below it."""

    name: str
    digest: str
    files: int
    size_bytes: int


Entry = FileEntry | LinkEntry | DirectoryEntry


@dataclass(frozen=True, slots=True)
class Directory:
    """A decoded directory, or one part of a large one."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a large directory: the entries from `first_name` to the next part's."""

    first_name: str
    entries: int
    files: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Index:
    """The decoded index of a large directory."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded directory: `blobs` holds its manifest under `digest`, and the parts if split.

    `files` and `size_bytes` count all that lies below it, as a DirectoryEntry wants them.
    """

    digest: str
    files: int
    size_bytes: int
    blobs: Mapping[str, bytes] = field(repr=False)


def totals(entries: Iterable[Entry]) -> tuple[int, int]:
    """(files, bytes) of these entries with all that lies below them."""
    files = size_bytes = 0
    for entry in entries:
        if isinstance(entry, FileEntry):
            files += 1
            size_bytes += entry.size_bytes
        elif isinstance(entry, DirectoryEntry):
            files += entry.files
            size_bytes += entry.size_bytes
        else:
            files += 1
    return files, size_bytes


def name_collision_key(name: str) -> str:
    """The form in which names of one folder must differ: some file systems fold case and NFC."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_collisions(names: Iterable[str]) -> None:
    """Raises PathCollision where two names of one folder are one name on some file system."""
    seen: dict[str, str] = {}
    for name in names:
        key = name_collision_key(name)
        if key in seen:
            raise collision(seen[key], name)
        seen[key] = name


def collision(first: str, second: str) -> PathCollision:
    """The error for two names that are one somewhere."""
    how = "twice in one folder" if first == second else "the same name on some file systems"
    return PathCollision(
        f"{first!r} and {second!r} are {how}",
        hint="rename one of them, or keep it out with a line in the ignore file",
        first=first,
        second=second,
    )


def check_values(entry: Entry) -> None:
    """Raises ManifestInvalid for a value that no entry can have."""
    if isinstance(entry, LinkEntry):
        is_fine = _is_target(entry.target)
    elif isinstance(entry, FileEntry):
        is_fine = (
            is_digest(entry.digest)
            and 0 <= entry.size_bytes < SIZE_LIMIT_BYTES
            and entry.is_chunked == (entry.size_bytes > CHUNKED_ABOVE_BYTES)
        )
    else:
        is_fine = (
            is_digest(entry.digest)
            and 0 <= entry.files < SIZE_LIMIT_BYTES
            and 0 <= entry.size_bytes < SIZE_LIMIT_BYTES
        )
    if not is_fine:
        raise invalid(f"an entry cannot be: {shown(repr(entry))}")


def _is_target(target: str) -> bool:
    """Whether a link can have this target; where it leads is checked with its path."""
    try:
        length = len(target.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= PATH_BYTES and "\0" not in target


def invalid(what: str) -> ManifestInvalid:
    """The error for bytes that are no manifest."""
    return ManifestInvalid(f"the manifest is damaged or not one: {what}", what=what)
