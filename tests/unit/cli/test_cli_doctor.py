"""`runyard doctor` where nothing is well: each check by itself, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import CommandLine


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path) -> Path:
    """A data directory that others may enter, and an address at which nobody answers."""
    home = tmp_path / "open"
    home.mkdir(mode=0o755)
    monkeypatch.setenv("RUNYARD_HOME", str(home))
    monkeypatch.setenv("RUNYARD_ADDRESS", f"unix:{tmp_path}/none.sock")
    return home


def test_doctor_goes_on_after_a_failure_and_names_each_fix(
    command: CommandLine, sick: Path
) -> None:
    done = command("doctor", "--json")

    verdicts = {check["name"]: check for check in done.json}
    assert done.code == 1
    assert verdicts["home"]["verdict"] == "fail"
    assert f"chmod 700 {sick}" in verdicts["home"]["fix"]
    assert verdicts["daemon"]["verdict"] == "fail"
    assert verdicts["daemon"]["fix"]
    assert verdicts["python"]["verdict"] == "ok"
    assert verdicts["uv"]["verdict"] == "ok"


def test_doctor_for_people_has_a_line_for_each_check(command: CommandLine, sick: Path) -> None:
    lines = command("doctor").stdout.decode().splitlines()

    assert any(line.startswith("fail home ") for line in lines)
    assert f"     fix:         close it with `chmod 700 {sick}`" in lines
    assert any(line.startswith("ok   python ") for line in lines)
