"""Tags and properties that a job set: lines of its tags file, each applied once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from runyard_contract.errors import NameInvalid
from runyard_contract.ids import check_tag_key
from runyard_contract.limits import TAG_VALUE_BYTES
from runyard_daemon.logs.growing import GrowingFileReader
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.logs.lines import Lines


@dataclass(frozen=True, slots=True)
class FreshTags:
    """What a job set since the last reading."""

    tags: dict[str, str]
    """The last value of each."""
    properties: dict[str, str]
    """The first value of each: it is set once."""
    next_offset_bytes: int
    """Where the next reading begins; to be kept in the transaction that applies these."""
    skipped_lines: int
    """Lines that are no tag or property, or break the rules of their names and values."""


def read_fresh(root: Path, key: AttemptKey, offset_bytes: int) -> FreshTags:
    """Reads the whole lines of an attempt's tags file from an offset on. Blocks."""
    tags: dict[str, str] = {}
    properties: dict[str, str] = {}
    reader = GrowingFileReader(root, key, LogFile.TAGS)
    try:
        lines = Lines(reader, offset_bytes)
        skipped = 0
        for line in lines:
            found = _parse(line)
            if found is None:
                skipped += 1
            elif found[0] == "tag":
                tags[found[1]] = found[2]
            else:
                properties.setdefault(found[1], found[2])
    finally:
        reader.close()
    return FreshTags(tags, properties, lines.offset_bytes, skipped + lines.skipped)


def _parse(line: bytes) -> tuple[str, str, str] | None:
    """Kind, key and value of a line; None: it is to be skipped."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.get("k") not in ("tag", "property"):
        return None
    name, value = fields.get("n"), fields.get("v")
    if not isinstance(name, str) or not isinstance(value, str):
        return None
    try:
        check_tag_key(name)
        is_small = len(value.encode()) <= TAG_VALUE_BYTES
    except (NameInvalid, UnicodeEncodeError):
        return None
    return (fields["k"], name, value) if is_small else None
