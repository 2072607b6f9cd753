"""Which version runs: of the distribution, of its sources in a checkout, and of the protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PROTOCOL_VERSION = "1.0"

_VERSION = "0.1.0"  # as in pyproject.toml; reading it from the metadata costs 15 ms of start-up
_PACKAGES = ("runyard_contract", "runyard", "runyard_job", "runyard_daemon", "runyard_agent")
_INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})


def version() -> str:
    """The version of this distribution."""
    return _VERSION


@lru_cache(maxsize=1)
def build_id() -> str:
    """The version, and in a checkout "+src.<milliseconds>.<8 hex>" of its source files.

    The milliseconds are those of the last change. Two processes with the same build id run the
    same code; `compatibility` says which of two is newer. Computed once in a process.
    """
    if _INSTALLED_FOLDERS.intersection(Path(__file__).parts):
        return version()
    return f"{version()}+src.{source_mark(_package_folders())}"


def source_mark(folders: list[Path]) -> str:
    """What tells the sources in these folders from others: "<milliseconds>.<8 hex>".

    When the newest Python file was changed, and a fingerprint over path, size and modification time
    of all of them.
    """
    from blake3 import blake3  # hashlib would load OpenSSL at every start of a command

    hasher = blake3()
    newest_ns = 0
    for folder in sorted(folders):
        for relative, mtime_ns, size_bytes in sorted(_python_files(folder, folder.name)):
            hasher.update(f"{relative}\0{mtime_ns}\0{size_bytes}\n".encode())
            newest_ns = max(newest_ns, mtime_ns)
    return f"{newest_ns // 1_000_000}.{hasher.hexdigest(length=4)}"


def _package_folders() -> list[Path]:
    """Where the packages of this distribution lie (found without importing them)."""
    from importlib.util import find_spec

    folders: list[Path] = []
    for package in _PACKAGES:
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            folders.append(Path(location))
    return folders


def _python_files(folder: str | Path, relative: str) -> Iterator[tuple[str, int, int]]:
    """(path, mtime_ns, size) of the Python files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{relative}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _python_files(entry.path, name)
            elif entry.name.endswith(".py"):
                status = entry.stat()
                yield name, status.st_mtime_ns, status.st_size
