from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runyard_agent.attempt import end_of
from runyard_agent.supervisor.disk import is_disk_full
from runyardpb.agent.v1 import agent_pb2 as pb
from support import small_disk


def record(**values: Any) -> dict[str, Any]:
    return {"reason": "exited", "exit_code": 1, "signal": None, **values}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("limit", pb.AttemptEnd.OUT_OF_MEMORY_LIMIT),
        ("host", pb.AttemptEnd.OUT_OF_MEMORY_HOST),
        (None, pb.AttemptEnd.OUT_OF_MEMORY_UNSPECIFIED),
        (["garbage"], pb.AttemptEnd.OUT_OF_MEMORY_UNSPECIFIED),
    ],
)
def test_exit_record_says_whose_memory_was_short(tmp_path: Path, word: object, told: int) -> None:
    assert end_of(record(oom=word), str(tmp_path)).out_of_memory == told


def test_exit_record_of_an_older_supervisor_says_nothing_of_memory(tmp_path: Path) -> None:
    end = end_of(record(), str(tmp_path))

    assert end.out_of_memory == pb.AttemptEnd.OUT_OF_MEMORY_UNSPECIFIED


def test_disk_without_room_counts_as_full_for_a_failed_run_only(tmp_path: Path) -> None:
    if why := small_disk.lacking():
        pytest.skip(why)
    with small_disk.small_disk(tmp_path, 4 << 20) as disk:
        assert not end_of(record(), str(disk)).is_disk_full

        small_disk.fill(disk)

        assert end_of(record(), str(disk)).is_disk_full
        assert not end_of(record(exit_code=0), str(disk)).is_disk_full


def test_folder_that_is_gone_is_on_no_full_disk(tmp_path: Path) -> None:
    assert not is_disk_full(str(tmp_path / "gone"))
