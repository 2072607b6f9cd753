from __future__ import annotations

from pathlib import Path

import pytest

from runyard_agent.container import used

V2 = (
    "cpu.stat usage_usec 3500000\ncpu.stat user_usec 3000000\ncpu.stat system_usec 500000\n"
    "cpu.stat nr_periods 0\nmemory.peak 8192 \n"
)
V1 = (
    "cpuacct.usage_user 3000000000 \ncpuacct.usage_sys 500000000 \n"
    "memory.max_usage_in_bytes 8192 \n"
)


@pytest.mark.parametrize("text", [V2, V1])
def test_used_is_read_from_either_version(tmp_path: Path, text: str) -> None:
    used.make(str(tmp_path))
    (tmp_path / used.USED).write_text(text)

    assert used.read(str(tmp_path)) == pytest.approx(
        {"user_cpu_s": 3.0, "system_cpu_s": 0.5, "max_rss_bytes": 8192}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cpu.stat user_usec 3000000\n",
        "memory.peak many\nmemory.peak -1\nmemory.peak " + "9" * 400,
        "\0\xff",
    ],
)
def test_what_is_not_known_or_of_the_whole_machine_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / used.USED).write_text(text)

    assert used.read(str(tmp_path)) == {}
    assert used.read(str(tmp_path / "gone")) == {}
