"""What of a built environment's folder is sealed: its files without the folder's own path. Blocks.

Bytecode in `__pycache__` is left out: the first import writes it again. So are runyard's own
records, and what ties a virtual environment to the Python that it was made with.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runyard_agent.environments.activation import VARIABLES_NAME
from runyard_agent.environments.intactness import FILES_NAME, is_bytecode
from runyard_agent.environments.records import LAST_USED_NAME, READY_NAME
from runyard_agent.environments.relocation import (
    PLACEHOLDER,
    NotRelocatable,
    check_prefix,
    take_out,
)
from runyard_agent.shipping.content import LocalFile
from runyard_agent.tree import Node, walk
from runyard_agent.workdir import open_file
from runyard_contract.paths import shown
from runyard_contract.sealed import Placement, SealedLink, relative_target

OWN_NAMES = frozenset({FILES_NAME, LAST_USED_NAME, READY_NAME, VARIABLES_NAME})
"""Records at the root of an environment that belong to one node."""
_OF_THE_VENV = frozenset({".gitignore", ".lock", "CACHEDIR.TAG", "pyvenv.cfg"})
_PYTHON_LINK = re.compile(r"bin/python[\d.]*\Z")


class NotSealable(Exception):
    """An environment can't be sealed. `why` says so, for people."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Part:
    """A file to be sealed: where its bytes lie, which may be rewritten ones."""

    path: str
    local: LocalFile
    is_executable: bool
    placement: Placement | None = None


@dataclass(slots=True)
class Survey:
    """What is sealed of a folder."""

    parts: list[Part] = field(default_factory=list)
    links: list[SealedLink] = field(default_factory=list)


def survey(folder: Path, kind: str, built_unix_ns: int, scratch: Path) -> Survey:
    """Looks through an environment's folder.

    Args:
        kind: "pip" or "conda".
        built_unix_ns: when it was finished; what is newer was changed by a job.
        scratch: an empty folder for the files that hold the path of `folder`, without it.

    Raises NotSealable, OSError.
    """
    try:
        return _Surveyor(folder, kind, built_unix_ns, scratch).survey()
    except NotRelocatable as error:
        raise NotSealable(error.why) from None


class _Surveyor:
    """The state of one look."""

    def __init__(self, folder: Path, kind: str, built_unix_ns: int, scratch: Path) -> None:
        self._folder = str(folder)
        self._prefix = os.fsencode(folder)
        self._is_venv = kind == "pip"
        self._built_unix_ns = built_unix_ns
        self._scratch = scratch
        self._placements = _conda_placements(folder)
        self._found = Survey()

    def survey(self) -> Survey:
        check_prefix(self._prefix)
        for node in walk(self._folder, self._is_left_out):
            if node.is_link:
                self._link(node)
            elif node.is_file:
                self._file(node)
            else:
                raise NotSealable(f"{shown(node.path)} is neither a file nor a link")
        return self._found

    def _is_left_out(self, path: str, is_folder: bool) -> bool:
        if is_folder:
            return is_bytecode(path)
        return path in OWN_NAMES or (self._is_venv and path in _OF_THE_VENV)

    def _link(self, node: Node) -> None:
        target = os.readlink(f"{self._folder}/{node.path}")
        if target.startswith(f"{self._folder}/"):
            target = relative_target(node.path, target[len(self._folder) + 1 :])
        if os.path.isabs(target):
            if self._is_venv and _PYTHON_LINK.match(node.path):
                return  # to the Python that it was made with
            raise NotSealable(f"its link {shown(node.path)} leads out of it to {shown(target)}")
        if self._is_venv and _PYTHON_LINK.match(node.path):
            return
        self._found.links.append(SealedLink(node.path, target))

    def _file(self, node: Node) -> None:
        if node.status.st_mtime_ns > self._built_unix_ns:
            raise NotSealable(f"{shown(node.path)} was changed after it was built")
        number = str(len(self._found.parts))
        local = LocalFile(self._folder, node.path, number, node.status.st_size)
        placement = None
        fd = open_file(self._folder, node.path)
        try:
            if node.status.st_size:
                with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
                    if data.find(self._prefix) >= 0:
                        local, placement = self._rewritten(node, bytes(data), number)
        finally:
            os.close(fd)
        self._found.parts.append(Part(node.path, local, node.is_executable, placement))

    def _rewritten(self, node: Node, data: bytes, number: str) -> tuple[LocalFile, Placement]:
        """The file without the folder's path."""
        placement = self._placements.get(node.path)
        if placement is None:
            if b"\0" in data:
                raise NotSealable(
                    f"{shown(node.path)} holds the path of its folder, and no package says how "
                    "another one is put in"
                )
            placement = Placement(PLACEHOLDER, "text")
        try:
            taken = take_out(data, self._prefix, placement)
        except NotRelocatable as error:
            raise NotSealable(f"{shown(node.path)} {error.why}") from None
        (self._scratch / number).write_bytes(taken)
        return LocalFile(str(self._scratch), number, number, len(taken)), placement


def _conda_placements(folder: Path) -> dict[str, Placement]:
    """How conda packages say that the folder is put into their files, by path."""
    found = {}
    for record in sorted((folder / "conda-meta").glob("*.json")):
        for entry in _path_entries(record):
            path, placeholder = entry.get("_path"), entry.get("prefix_placeholder")
            if isinstance(path, str) and isinstance(placeholder, str) and placeholder:
                mode: Literal["text", "binary"] = (
                    "binary" if entry.get("file_mode") == "binary" else "text"
                )
                # Only a binary needs the room of its package's own placeholder.
                stands = placeholder.encode() if mode == "binary" else PLACEHOLDER
                found[path] = Placement(stands, mode)
    return found


def _path_entries(record: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(record.read_bytes())
        paths = content["paths_data"]["paths"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(paths, list):
        yield from (entry for entry in paths if isinstance(entry, dict))
