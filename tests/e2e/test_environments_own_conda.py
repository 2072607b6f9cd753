"""Runs in conda environments that the node's own program builds."""

from __future__ import annotations

import pytest

from support.conda_channel import CondaChannel
from support.house import House
from support.own_conda import make_program

pytestmark = pytest.mark.slow

YAML = "name: x\nchannels:\n  - {channel}\ndependencies:\n  - ryleaf=1\n"


def project(house: House, channel: CondaChannel) -> dict[str, str]:
    return {
        "train.py": "import ryleaf; print(ryleaf.VERSION)",
        "environment.yml": YAML.format(channel=channel.url),
    }


@pytest.mark.parametrize("setting", ["auto", "builtin", "path"])
def test_program_of_the_setting_is_used_and_told(
    setting: str, house: House, conda_channel: CondaChannel
) -> None:
    folder = house.project(project(house, conda_channel))
    is_found = setting == "auto"
    program = make_program(house.user_home / "miniforge3" / "bin" if is_found else house.root / "x")
    value = str(program.path) if setting == "path" else setting
    house.home.mkdir(mode=0o700)
    (house.home / "daemon.toml").write_text(f'[environments]\nconda = "{value}"\n')

    run = house.submit("--env", "environment.yml", "train.py", cwd=folder)
    assert house.runyard("runs", "wait", run).returncode == 0
    printed = house.runyard("runs", "logs", run).stdout
    log = house.runyard("runs", "logs", "--environment", run).stdout.decode()

    assert printed == b"1.0\n"
    is_own = setting != "builtin"
    assert len(program.calls()) == (2 if is_own else 0)
    assert (f"Installing with the node's own micromamba 2.0.5 ({program.path})" in log) is is_own


def test_failure_of_the_program_is_told_in_the_words_of_the_built_in(
    house: House, conda_channel: CondaChannel
) -> None:
    files = project(house, conda_channel)
    files["environment.yml"] += "  - rytop\n  - rynew\n"
    make_program(house.user_home / "miniforge3" / "bin")
    folder = house.project(files)

    done = house.runyard("run", "--env", "environment.yml", "train.py", cwd=folder)

    said = done.stderr.decode()
    assert done.returncode == 125
    assert "contradict each other" in said
    assert "Traceback" not in said
    assert list((house.home / "agent" / "environments").glob("*/bin")) == []
