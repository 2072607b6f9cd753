import subprocess
from pathlib import Path

import pytest

from runyard_agent.probe import cpu_millicores, gpu_names, measure, memory_bytes

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cpus_are_those_that_the_process_may_run_on(tmp_path: Path) -> None:
    assert cpu_millicores(6, tmp_path) == 6000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1500),
        (
            {
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            500,
        ),
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 4000),
        ({"sys/fs/cgroup/a/b/cpu.max": "garbage"}, 4000),
        ({"sys/fs/cgroup/cpu.max": "900000 100000"}, 4000),
    ],
)
def test_cpus_are_bounded_by_the_quota_of_cgroup_v2(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/a/b\n", **files})

    assert cpu_millicores(4, root) == expected


def test_cpus_are_bounded_by_the_quota_of_cgroup_v1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n5:memory:/job\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
    )

    assert cpu_millicores(4, root) == 2500


@pytest.mark.parametrize(
    ("limit", "expected"), [("536870912", 512 * MIB), ("max", 8000 * 1024), ("", 8000 * 1024)]
)
def test_memory_is_bounded_by_the_cgroup(tmp_path: Path, limit: str, expected: int) -> None:
    root = write(
        tmp_path,
        {
            "proc/meminfo": f"MemTotal:  {8000 if limit != '536870912' else 8_000_000} kB\n",
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": limit,
        },
    )

    assert memory_bytes(root) == expected


def test_gpus_are_named_by_index() -> None:
    def run(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "1, NVIDIA H100 80GB\n0, NVIDIA L4\n", "")

    assert gpu_names(run) == ("NVIDIA L4", "NVIDIA H100 80GB")


@pytest.mark.parametrize(
    "fault", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 10)]
)
def test_gpus_are_none_where_nobody_answers(fault: Exception) -> None:
    def run(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        raise fault

    assert gpu_names(run) == ()


def test_gpus_are_none_where_the_driver_fails() -> None:
    def run(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 9, "NVIDIA-SMI has failed\n", "")

    assert gpu_names(run) == ()


def test_measure_tells_of_this_machine() -> None:
    machine = measure("boot")

    assert machine.cpu_millicores >= 1
    assert machine.memory_bytes > 64 * MIB
    assert machine.platform.startswith("linux-")
    assert machine.default_slots >= 1
    assert machine.account
