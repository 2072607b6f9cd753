"""What people should know of what goes into a snapshot and what does not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from runyard.snapshot.limits import size_text

_LARGE_BYTES = 10 << 20
_LARGE_FILES = 1000  # no more entries of a folder are looked at
_SECRET_PARTS = (
    b".env netrc .pgpass .pypirc id_rsa id_dsa id_ecdsa id_ed25519 .pem .key .p12 .pfx .ppk".split()
)
_SECRET_NAME = re.compile(
    rb"\.env(?:\.(?!example|sample|template|dist).*)?|[._]netrc|\.pgpass|\.pypirc|"
    rb"id_(?:rsa|dsa|ecdsa|ed25519)|.+\.(?:pem|key|p12|pfx|ppk)"
)


def secret_paths(paths: Sequence[bytes]) -> list[str]:
    """Which of these paths have the name of a file that usually holds credentials."""
    # Most trees hold none: one text of all paths is searched in a small part of the time.
    text = b"\0".join([b"", *paths, b""])
    starts: set[int] = set()
    for part in _SECRET_PARTS:
        found = text.find(part)
        while found >= 0:
            starts.add(text.rindex(b"\0", 0, found + 1) + 1)
            found = text.find(part, found + 1)
    candidates = [text[start : text.index(b"\0", start)] for start in sorted(starts)]
    return [
        path.decode() for path in candidates if _SECRET_NAME.fullmatch(path.rsplit(b"/", 1)[-1])
    ]


def describe_large(path: str, *, is_dir: bool, size_bytes: int) -> str:
    """The size of what is left out, for people; empty where it is not worth a word.

    Of a folder only the first thousand entries are looked at.
    """
    if not is_dir:
        return size_text(size_bytes) if size_bytes >= _LARGE_BYTES else ""
    files = 0
    folders = [path]
    looked_at = 0
    while folders and looked_at < _LARGE_FILES:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    looked_at += 1
                    if looked_at > _LARGE_FILES:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        files += 1
                        size_bytes += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    if looked_at >= _LARGE_FILES:
        return f"over {_LARGE_FILES:,} files"
    return size_text(size_bytes) if size_bytes >= _LARGE_BYTES else ""
