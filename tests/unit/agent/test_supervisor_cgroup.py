from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runyard_agent.supervisor import cgroup
from runyard_agent.supervisor.cgroup import Limits, NoGroups, choose, places, settings

BOTH = Limits(cpu_millicores=1500, memory_bytes=1 << 30)
MOUNTS_V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def v2_tree(root: Path, *, passed_on: str) -> dict[str, tuple[str, str]]:
    """A user's part of a tree of version 2: an agent in a scope below app.slice."""
    scope = root / "user.slice/app.slice/agent.scope"
    scope.mkdir(parents=True)
    for folder, controllers in ((scope, ""), (scope.parent, passed_on), (root, "cpu memory")):
        (folder / "cgroup.subtree_control").write_text(controllers)
        (folder / "cgroup.procs").write_text("")
    return {"": (str(root), "user.slice/app.slice/agent.scope")}


def test_places_of_version_1_are_by_controller() -> None:
    own = "4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/\n"

    found = places(own, MOUNTS_V1)

    assert found["memory"] == ("/sys/fs/cgroup/memory", "jobs/a")
    assert found["cpu"] == ("/sys/fs/cgroup/cpu,cpuacct", "")
    assert found[""] == ("/sys/fs/cgroup/unified", "")


def test_place_in_a_container_is_below_the_part_that_is_mounted() -> None:
    mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

    found = places("4:memory:/docker/abc/agent\n", mounts)

    assert found == {"memory": ("/sys/fs/cgroup/memory", "agent")}


def test_place_that_is_not_mounted_is_none() -> None:
    assert places("4:memory:/\n0::/\n", "31 23 0:28 / /proc rw - proc proc rw\n") == {}


def test_version_2_takes_the_nearest_folder_that_passes_the_controllers_on(tmp_path: Path) -> None:
    found = v2_tree(tmp_path, passed_on="cpu memory pids")

    version, folders = choose(["memory", "cpu"], found)

    assert version == 2
    assert set(folders.values()) == {str(tmp_path / "user.slice/app.slice")}


def test_version_2_goes_up_to_where_the_controllers_are_passed_on(tmp_path: Path) -> None:
    found = v2_tree(tmp_path, passed_on="memory")

    assert choose(["memory"], found)[1]["memory"].endswith("app.slice")
    assert choose(["cpu"], found)[1] == {"cpu": str(tmp_path)}


def test_node_without_a_controller_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoGroups, match="no control groups for memory"):
        choose(["memory"], {})
    with pytest.raises(NoGroups, match="are not writable"):
        choose(["memory"], {"memory": (str(tmp_path / "gone"), "")})


def test_settings_of_version_2() -> None:
    lines = settings(2, BOTH, {"memory": "/g", "cpu": "/g"})

    assert lines == [
        ("/g/memory.max", str(1 << 30), True),
        ("/g/memory.swap.max", "0", False),
        ("/g/memory.oom.group", "1", False),
        ("/g/cpu.max", "150000 100000", True),
    ]


def test_settings_of_version_1() -> None:
    lines = settings(1, BOTH, {"memory": "/m", "cpu": "/c"})

    assert lines == [
        ("/m/memory.limit_in_bytes", str(1 << 30), True),
        ("/m/memory.memsw.limit_in_bytes", str(1 << 30), False),
        ("/c/cpu.cfs_period_us", "100000", True),
        ("/c/cpu.cfs_quota_us", "150000", True),
    ]


def test_limit_that_is_none_sets_nothing() -> None:
    memory = Limits(cpu_millicores=0, memory_bytes=1)

    assert memory.controllers == ["memory"]
    assert settings(2, memory, {"memory": "/g"})[0][1] == "1"


def test_note_of_a_bundle_names_absolute_folders_only(tmp_path: Path) -> None:
    (tmp_path / cgroup.NOTE).write_text("/sys/fs/cgroup/memory/x\nrelative\n\0garbage\n")

    assert cgroup.left_behind(str(tmp_path)) == ["/sys/fs/cgroup/memory/x"]
    assert cgroup.left_behind(str(tmp_path / "gone")) == []


def test_groups_of_version_2_are_killed_in_one_step(tmp_path: Path) -> None:
    root = Path("/sys/fs/cgroup/unified")
    root = root if root.is_dir() else root.parent
    if not (root / "cgroup.procs").exists() or not os.access(root, os.W_OK):
        pytest.skip("no control groups of version 2 are writable here")
    group = root / f"runyard-test-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / "cgroup.kill").exists():
            pytest.skip("this kernel has no cgroup.kill")
        job = subprocess.Popen(["sleep", "600"])
        (group / "cgroup.procs").write_text(str(job.pid))

        cgroup.kill([str(group)])

        assert job.wait(20) == -9
    finally:
        group.rmdir()


def test_limits_over_what_the_node_has_are_told() -> None:
    assert cgroup.too_large(BOTH, 2, 1 << 30) == ""
    assert "1.5 cores are over the 1" in cgroup.too_large(BOTH, 1, 1 << 30)
    assert "bytes of memory are over the 1024" in cgroup.too_large(BOTH, 2, 1024)
