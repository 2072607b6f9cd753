"""`environment prune` on a node with real environments, one of them in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.house import House, eventually
from support.packages import make_wheel
from support.served_files import served_for_an_hour

pytestmark = pytest.mark.slow

WAITS = """
import os, sys, time
import ryused
print("started", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


def built(house: House) -> set[str]:
    """Names of the modules of the environments that are on the node."""
    environments = house.home / "agent" / "environments"
    return {path.stem for path in environments.glob("[0-9a-f]*/lib/python*/site-packages/ry*.py")}


def build(house: House, folder: Path, url: str, *names: str) -> None:
    """Stores and builds environments of one package each."""
    for name in names:
        (folder / f"{name}.txt").write_text(f"--index-url {url}\n{name}\n")
        done = house.runyard("environment", "build", "--name", name, f"{name}.txt", cwd=folder)
        assert done.returncode == 0, done.stderr.decode()


def test_prune_removes_what_is_unused_and_says_what_that_was(house: House) -> None:
    folder = house.project({"wait.py": WAITS})
    index, gate = folder.parent / "index", folder.parent / "gate"
    for name in ("ryused", "ryold", "rynew"):
        (index / name).mkdir(parents=True)
        make_wheel(index / name, name, "1.0")
    with served_for_an_hour(index) as url:
        build(house, folder, url, "ryold", "rynew", "ryused")
        old = house.json("environment", "show", "ryold")["builds"][0]["lock_hash"]
        os.utime(house.home / "agent" / "environments" / old[:16] / "last-used", (1e9, 1e9))
        run = house.submit("--env", "ryused", "wait.py", str(gate), cwd=folder)
        eventually(lambda: b"started" in house.runyard("runs", "logs", run).stdout)

        refused = house.runyard("environment", "prune")
        dry = house.json("environment", "prune", "--older-than", "30d", "--dry-run")
        assert built(house) == {"ryold", "rynew", "ryused"}
        aged = house.runyard("environment", "prune", "--older-than", "30d", "--yes")
        assert built(house) == {"rynew", "ryused"}
        rest = house.json("environment", "prune", "-t", "local", "--yes")
        assert built(house) == {"ryused"}
        gate.touch()
        assert house.runyard("runs", "wait", run).returncode == 0
        nothing = house.runyard("environment", "prune", "--max-size", "10GiB", "--yes")
        again = house.runyard("environment", "build", "ryold", cwd=folder)

    assert refused.returncode == 2
    assert b"--yes" in refused.stderr
    (node,) = dry["nodes"]
    assert [one["lock_hash"] for one in node["environments"]] == [old]
    assert node["in_use_count"] == 1
    assert dry["freed_bytes"] == node["freed_bytes"] > 0
    assert "ryold" in aged.stdout.decode()
    assert "1 built environment" in aged.stderr.decode()
    assert len(rest["nodes"][0]["environments"]) == 1
    assert (rest["nodes"][0]["left_count"], rest["nodes"][0]["in_use_count"]) == (1, 1)
    assert "0 built environments" in nothing.stderr.decode()
    assert again.returncode == 0
    assert house.json("environment", "show", "rynew")["builds"] == []


def test_prune_names_a_target_that_there_is_not(shared_house: House) -> None:
    refused = shared_house.runyard("environment", "prune", "-t", "nowhere", "--yes")

    assert refused.returncode == 3
    assert "nowhere" in refused.stderr.decode()
