"""What is known of a built environment: the record of its build, and of its uses."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

READY_NAME = "ready.json"
"""Holds the record; an environment without it is none."""
LAST_USED_NAME = "last-used"
"""Bears the time of the last use, and one byte for each."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What ready.json says of an environment.

    `created_at_unix_ns` is wall clock, `size_bytes` the sum of its files' lengths, `python` the
    version of its interpreter, `packages` their number, `image` the id of the container image that
    it is; empty: the folder itself is the environment. `lock_hash` is what names it here; where
    that is not its lock's hash (an image with files of a snapshot), `of_lock` is.
    `kind` is that of its specification.
    `build_s` is how long it took to build, `is_fetched` says that it was fetched instead. `listing`
    is a digest of names and sizes, to tell whether somebody has changed it since.
    """

    lock_hash: str
    platform: str
    created_at_unix_ns: int
    size_bytes: int
    python: str
    packages: int
    image: str = ""
    of_lock: str = ""
    kind: str = ""
    build_s: float = 0.0
    is_fetched: bool = False
    file_count: int = 0
    listing: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An environment on disk: the time of its last use (wall clock), and how often it was used.

    `hits` are the runs that were given it without building it.
    """

    record: Record
    last_used_unix_ns: int
    hits: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed because somebody asked for it, and what is left, some of it in use."""

    removed: tuple[Found, ...]
    left: tuple[Found, ...]
    in_use: int


def read_record(path: Path) -> Record | None:
    """What a ready.json says; None for one that is missing, damaged or of another format."""
    try:
        fields = json.loads(path.read_bytes())
        return Record(**fields) if fields.pop("format") == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def uses_of(folder: Path, record: Record) -> tuple[int, int]:
    """When an environment was last used, and its hits. The first use is that of its build."""
    with contextlib.suppress(OSError):
        status = os.stat(folder / LAST_USED_NAME)
        return status.st_mtime_ns, max(0, status.st_size - 1)
    return record.created_at_unix_ns, 0
