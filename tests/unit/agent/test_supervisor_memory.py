from __future__ import annotations

from pathlib import Path

import pytest

from runyard_agent.supervisor.memory import host_kills


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("pgfault 7\noom_kill 3\nnuma_pte_updates 0\n", 3),
        ("pgfault 7\n", None),
        ("pgfault 7\noom_kill many\n", None),
        ("", None),
    ],
)
def test_host_kills_are_read_or_not_known(tmp_path: Path, text: str, kills: int | None) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text(text)

    assert host_kills(str(vmstat)) == kills


def test_host_kills_are_not_known_without_the_file(tmp_path: Path) -> None:
    assert host_kills(str(tmp_path / "vmstat")) is None
