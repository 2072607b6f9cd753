"""spec.json is read strictly, state.json is claimed once, exit.json is replaced whole."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.supervisor import record

GOOD: dict[str, Any] = {
    "format": 1,
    "run_id": "iris_1764000000_0a1b2c3d",
    "attempt": 2,
    "epoch": 9,
    "argv": ["python", "\udcff"],
    "env": {"A": "b\udc80"},
    "cwd": "/tmp",
    "merge_stderr": False,
    "grace_s": 5,
    "max_duration_s": None,
    "spool_bound_bytes": 1024,
}


def _spec(bundle: Path, **changes: Any) -> record.Spec:
    (bundle / "spec.json").write_text(json.dumps(GOOD | changes))
    return record.read_spec(str(bundle))


def test_spec_holds_exact_bytes(tmp_path: Path) -> None:
    spec = _spec(tmp_path)

    assert spec.argv == [b"python", b"\xff"]
    assert spec.env == {b"A": b"b\x80"}
    assert (spec.grace_s, spec.max_duration_s) == (5.0, None)
    assert spec.identity == {"run_id": GOOD["run_id"], "attempt": 2, "epoch": 9}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 2}, "format"),
        ({"argv": []}, "argv"),
        ({"argv": [""]}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": ["a", 1]}, "1"),
        ({"argv": ["a\0b"]}, "NUL"),
        ({"argv": ["\ud800"]}, "bytes"),
        ({"env": {"A": None}}, "None"),
        ({"env": []}, "env"),
        ({"attempt": True}, "attempt"),
        ({"attempt": "1"}, "attempt"),
        ({"cwd": None}, "cwd"),
        ({"merge_stderr": 1}, "merge_stderr"),
        ({"grace_s": -1}, "seconds"),
        ({"grace_s": math.nan}, "seconds"),
        ({"max_duration_s": math.inf}, "seconds"),
        ({"spool_bound_bytes": 1.5}, "spool_bound_bytes"),
    ],
)
def test_spec_says_what_is_wrong_with_it(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(record.SpecInvalid, match=text):
        _spec(tmp_path, **changes)


def test_spec_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(record.SpecInvalid, match=r"spec\.json is missing"):
        record.read_spec(str(tmp_path / "nowhere"))


def test_state_is_claimed_once_and_shows_each_phase(tmp_path: Path) -> None:
    fd = record.claim(str(tmp_path), record.state("spawning", 5, None, None))
    first = record.read(str(tmp_path), record.STATE)
    record.overwrite(fd, record.state("running", 5, 4194304, 10**12))
    os.close(fd)
    second = record.read(str(tmp_path), record.STATE)

    assert first is not None
    assert second is not None
    assert (first["phase"], first["pid"]) == ("spawning", None)
    assert (second["phase"], second["pid"], second["boot_id"]) == (
        "running",
        4194304,
        first["boot_id"],
    )
    assert record.is_taken(str(tmp_path))
    with pytest.raises(FileExistsError):
        record.claim(str(tmp_path), first)


def test_state_is_not_claimed_after_an_exit_record(tmp_path: Path) -> None:
    os.close(record.replace(str(tmp_path), record.EXIT, record.exit_record({}, "never_started")))

    with pytest.raises(FileExistsError):
        record.claim(str(tmp_path), record.state("spawning", 5, None, None))

    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize("content", [b"", b'{"a":', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_record_that_is_not_whole_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)

    assert record.read(str(tmp_path), record.STATE) is None


def test_record_replaces_a_longer_one_that_was_left_unfinished(tmp_path: Path) -> None:
    unfinished = tmp_path / f"{record.EXIT}{record.TEMPORARY}"
    unfinished.write_bytes(b"x" * 10_000)

    os.close(record.replace(str(tmp_path), record.EXIT, {"format": 1}))

    assert record.read(str(tmp_path), record.EXIT) == {"format": 1}
    assert not unfinished.exists()
