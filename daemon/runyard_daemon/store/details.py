"""Parts of records that are kept as JSON, and their encoding.

Bytes travel through JSON as text with surrogate escapes, so that each byte comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from operator import attrgetter
from typing import Any

from runyard_contract.record import record
from runyard_contract.states import EndClass

_encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":")).encode
_decode: Callable[[str], tuple[Any, int]] = json.JSONDecoder().raw_decode


@record
class EndRecord:
    """How a run ended."""

    end_class: EndClass
    message: str
    """One sentence: what happened."""
    advice: str = ""
    """What to try."""
    exit_code: int | None = None
    signal: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The values that message and advice show."""
    outcome: int = 0
    """What a command that waited for the run exits with."""
    last_lines: bytes = b""
    """The end of stderr, up to 4 KiB."""


@record
class AttemptEndRecord:
    """How an attempt ended, as the agent's facts. Words are those of the wire's enums."""

    reason: str
    """Such as "EXITED", "SIGNALED", "SUPERVISOR_LOST"."""
    exit_code: int | None = None
    signal: int | None = None
    stopped_by: str = ""
    """ "CANCEL", "TIMEOUT", "SUPERVISOR_LOST"; empty: it ended by itself."""
    message: str = ""
    advice: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    end_time_us: int | None = None
    duration_us: int | None = None
    cpu_time_us: int | None = None
    peak_memory_bytes: int | None = None
    working_directory: bytes = b""
    out_of_memory: str = ""
    """Whose memory was short, by the node's word: "limit" or "host"; empty: nobody's."""
    is_disk_full: bool = False
    """Whether the disk of its folder had no room left."""


@record
class PhaseRecord:
    """A stretch of a run's time."""

    phase: str
    start_time_us: int
    duration_us: int


@record
class WorkdirFile:
    """A file that a script left outside outputs/ and logs/."""

    path: str
    size_bytes: int
    is_executable: bool = False


@record
class WorkdirRecord:
    """What a script wrote outside outputs/ and logs/."""

    files: tuple[WorkdirFile, ...]
    """The first 20, by path."""
    file_count: int
    expire_time_us: int
    """Until when the node keeps them."""
    size_bytes: int = 0
    """Of all of them together."""


_ATTEMPT_END = tuple(field.name for field in fields(AttemptEndRecord))
_attempt_end = attrgetter(*_ATTEMPT_END)


def encode_mapping(values: Mapping[str, object]) -> str:
    """JSON of a mapping with text keys."""
    return _encode(dict(values)) if values else "{}"


def decode_mapping(text: str) -> dict[str, Any]:
    """The mapping of `encode_mapping`."""
    return {} if text == "{}" else _decode(text)[0]


def encode_texts(texts: Iterable[str]) -> str:
    """JSON of a list of texts."""
    listed = list(texts)
    return _encode(listed) if listed else "[]"


def decode_texts(text: str) -> tuple[str, ...]:
    """The texts of `encode_texts`."""
    return () if text == "[]" else tuple(_decode(text)[0])


def encode_phases(phases: Iterable[PhaseRecord]) -> str:
    """JSON of phases."""
    # Put together here: the encoder takes four times as long, and every run comes by.
    encoded = [
        f'{{"phase":{_encode(phase.phase)},"start_time_us":{phase.start_time_us},'
        f'"duration_us":{phase.duration_us}}}'
        for phase in phases
    ]
    return f"[{','.join(encoded)}]"


def decode_phases(text: str) -> tuple[PhaseRecord, ...]:
    """The phases of `encode_phases`."""
    if text == "[]":
        return ()
    return tuple(
        [
            PhaseRecord(known["phase"], known["start_time_us"], known["duration_us"])
            for known in _decode(text)[0]
        ]
    )


def encode_end(end: EndRecord | None) -> str | None:
    """JSON of a run's end."""
    if end is None:
        return None
    return _encode(
        {
            "end_class": end.end_class.value,
            "message": end.message,
            "advice": end.advice,
            "exit_code": end.exit_code,
            "signal": end.signal,
            "metadata": dict(end.metadata),
            "outcome": end.outcome,
            "last_lines": _text(end.last_lines),
        }
    )


def decode_end(text: str | None) -> EndRecord | None:
    """The end of `encode_end`."""
    if text is None:
        return None
    values = _decode(text)[0]
    values["end_class"] = EndClass(values["end_class"])
    values["last_lines"] = _bytes(values["last_lines"])
    return EndRecord(**values)


def encode_attempt_end(end: AttemptEndRecord | None) -> str | None:
    """JSON of an attempt's end."""
    if end is None:
        return None
    values = dict(zip(_ATTEMPT_END, _attempt_end(end), strict=True))
    values["metadata"] = dict(end.metadata)
    values["working_directory"] = _text(end.working_directory)
    return _encode(values)


def decode_attempt_end(text: str | None) -> AttemptEndRecord | None:
    """The end of `encode_attempt_end`."""
    if text is None:
        return None
    values = _decode(text)[0]
    values["working_directory"] = _bytes(values["working_directory"])
    return AttemptEndRecord(**values)


def encode_workdir(workdir: WorkdirRecord | None) -> str | None:
    """JSON of a working folder's summary."""
    if workdir is None:
        return None
    return _encode(
        {
            "files": [[f.path, f.size_bytes, f.is_executable] for f in workdir.files],
            "file_count": workdir.file_count,
            "expire_time_us": workdir.expire_time_us,
            "size_bytes": workdir.size_bytes,
        }
    )


def decode_workdir(text: str | None) -> WorkdirRecord | None:
    """The summary of `encode_workdir`."""
    if text is None:
        return None
    values = _decode(text)[0]
    values["files"] = tuple(WorkdirFile(*file) for file in values["files"])
    return WorkdirRecord(**values)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
