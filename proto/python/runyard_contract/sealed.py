"""Sealed environments: a built environment as content, without the folder that it was built in.

A sealed environment is a tree (see `manifest`) of two entries: `sealed.json`, which says where each
file belongs and how its environment's folder is put into it, and the folder `files`, which has each
content once under its digest. The real paths are in the description alone, because environments
have names that no snapshot may have: conda's terminfo has `E` and `e`.

The description is JSON in one canonical form. The decoder refuses whatever the encoder would not
write: paths that climb out, are absolute, come twice or lead through a link or a file, links that
lead out. Paths are text in which bytes that are not UTF-8 are escaped (PEP 383).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from runyard_contract.digest import is_digest
from runyard_contract.errors import SealedInvalid
from runyard_contract.limits import (
    CHUNKED_ABOVE_BYTES,
    NAME_BYTES,
    PATH_BYTES,
    PATH_COMPONENTS,
    SEALED_MAX_BYTES,
    SEALED_MAX_FILES,
)
from runyard_contract.paths import shown

FORMAT = 1
DESCRIPTION = "sealed.json"
CONTENTS = "files"
SEALED_KINDS = ("pip", "conda")
"""Kinds of environments that are folders, which can be sealed."""

Mode = Literal["text", "binary"]
_TEXTS = ("kind", "lock_hash", "platform", "python", "libc", "runyard")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a file holds its environment's folder: what stands for it, and in which form.

    In "text" it is replaced as it is; in "binary" in C strings, whose NULs take up the difference.
    """

    placeholder: bytes
    mode: Mode


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file of an environment. `digest` is of its bytes, or of its chunk list over 8 MiB."""

    path: str
    digest: str
    size_bytes: int
    is_executable: bool = False
    placement: Placement | None = None

    @property
    def is_chunked(self) -> bool:
        """Whether its content is a list of chunks."""
        return self.size_bytes > CHUNKED_ABOVE_BYTES


@dataclass(frozen=True, slots=True)
class SealedLink:
    """A symbolic link to another place of the environment."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealed environment is.

    Args:
        kind: of its specification, such as "pip".
        lock_hash: as in `EnvironmentLock.hash`.
        platform: as in `EnvironmentLock.platform`.
        python: the version of its Python.
        packages: their number.
        libc: what it may need of the node's C library at least, such as "2.36"; empty: nothing.
        runyard: the version that sealed it.
    """

    kind: str
    lock_hash: str
    platform: str
    python: str
    packages: int
    libc: str
    runyard: str
    files: tuple[SealedFile, ...]
    links: tuple[SealedLink, ...] = ()


def encode_sealed(sealed: Sealed) -> bytes:
    """The bytes of a description. Raises SealedInvalid for what can't be one."""
    document = {
        "format": FORMAT,
        **{name: getattr(sealed, name) for name in _TEXTS},
        "packages": sealed.packages,
        "files": [_file_row(file) for file in sorted(sealed.files, key=lambda one: one.path)],
        "links": [[one.path, one.target] for one in sorted(sealed.links, key=lambda one: one.path)],
    }
    data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii")
    decode_sealed(data)
    return data


def decode_sealed(data: bytes) -> Sealed:
    """The description in these bytes. Raises SealedInvalid for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _invalid("its description is no JSON") from None
    if not isinstance(document, dict):
        raise _invalid("its description is no JSON object")
    if document.get("format") != FORMAT:
        raise _invalid(
            f"it is of format {document.get('format')!r:.40}, this version reads {FORMAT}"
        )
    texts = {name: document.get(name) for name in _TEXTS}
    packages, rows, links = (document.get(name) for name in ("packages", "files", "links"))
    is_fine = (
        len(document) == len(_TEXTS) + 4
        and all(isinstance(text, str) and len(text) <= 255 for text in texts.values())
        and is_digest(str(texts["lock_hash"]))
        and _is_count(packages)
        and isinstance(rows, list)
        and isinstance(links, list)
    )
    if not is_fine:
        raise _invalid("its description has fields that can't be")
    sealed = Sealed(
        **{name: str(text) for name, text in texts.items()},
        packages=int(packages or 0),
        files=tuple(_file(row) for row in rows or ()),
        links=tuple(_link(row) for row in links or ()),
    )
    _check(sealed)
    return sealed


def _file_row(file: SealedFile) -> list[Any]:
    row: list[Any] = [file.path, file.digest, file.size_bytes, file.is_executable]
    if file.placement is not None:
        row += [file.placement.mode, file.placement.placeholder.decode("utf-8", "surrogateescape")]
    return row


def _file(row: Any) -> SealedFile:
    match row:
        case [str(path), str(digest), int(size_bytes), bool(is_executable), *rest] if is_digest(
            digest
        ) and _is_count(size_bytes):
            return SealedFile(path, digest, size_bytes, is_executable, _placement(rest))
    raise _invalid("a file of it is described by what can't be")


def _placement(rest: list[Any]) -> Placement | None:
    match rest:
        case []:
            return None
        case [("text" | "binary") as mode, str(placeholder)] if placeholder:
            return Placement(_encoded(placeholder), mode)
    raise _invalid("a file of it holds its folder in an unknown form")


def _link(row: Any) -> SealedLink:
    match row:
        case [str(path), str(target)]:
            return SealedLink(path, target)
    raise _invalid("a link of it is described by what can't be")


def _check(sealed: Sealed) -> None:
    """Raises SealedInvalid for sizes, orders, paths and links that can't be."""
    if len(sealed.files) + len(sealed.links) > SEALED_MAX_FILES:
        raise _invalid(f"it has over {SEALED_MAX_FILES} files")
    if sum(file.size_bytes for file in sealed.files) > SEALED_MAX_BYTES:
        raise _invalid(f"it has over {SEALED_MAX_BYTES} bytes")
    files = [file.path for file in sealed.files]
    links = [link.path for link in sealed.links]
    if files != sorted(set(files)) or links != sorted(set(links)):
        raise _invalid("its files are not in order, or come twice")
    every = [*files, *links]
    taken = set(every)
    if len(taken) != len(every):
        raise _invalid("a path of it is a file and a link")
    folders: set[str] = set()
    for path in every:
        _check_path(path)
        folders.update(_parents(path))
    if through := min(taken & folders, default=""):
        raise _invalid(f"a path of it leads through {shown(through)!r}, which is no folder")
    for link in sealed.links:
        if not _stays_inside(link):
            raise _invalid(f"its link {shown(link.path)!r} leads out of it")


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    for end in range(1, len(parts)):
        yield "/".join(parts[:end])


def _check_path(path: str) -> None:
    parts = path.split("/")
    is_fine = (
        len(parts) <= PATH_COMPONENTS
        and len(_encoded(path)) <= PATH_BYTES
        and "\0" not in path
        and all(part not in ("", ".", "..") and _is_short(part) for part in parts)
    )
    if not is_fine:
        raise _invalid(f"it has the path {shown(path[:200])!r}, which leads out of it or can't be")


def _is_short(part: str) -> bool:
    return len(part) * 4 <= NAME_BYTES or len(_encoded(part)) <= NAME_BYTES


def _stays_inside(link: SealedLink) -> bool:
    """Whether a link can't lead out: relative, and up only at its start, not above the root."""
    target = link.target
    if not target or target.startswith("/") or "\0" in target or len(_encoded(target)) > PATH_BYTES:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    return ".." not in parts[up:] and up < len(link.path.split("/"))


def relative_target(path: str, target: str) -> str:
    """What a link at `path` has to say to lead to `target`, both from the environment's root."""
    here, there = path.split("/")[:-1], target.split("/")
    common = 0
    while common < min(len(here), len(there) - 1) and here[common] == there[common]:
        common += 1
    return "/".join([*[".."] * (len(here) - common), *there[common:]])


def digests_of(files: Iterable[SealedFile]) -> dict[str, int]:
    """The different contents of these files: size by digest. Raises SealedInvalid where one has
    two sizes."""
    found: dict[str, int] = {}
    for file in files:
        if found.setdefault(file.digest, file.size_bytes) != file.size_bytes:
            raise _invalid("a content of it has two sizes")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _encoded(text: str) -> bytes:
    """The bytes of a text. Raises SealedInvalid for one that stands for none."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _invalid("a path of it is no text of a file system") from None


def _invalid(what: str) -> SealedInvalid:
    return SealedInvalid.because(what)
