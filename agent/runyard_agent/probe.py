"""What this machine has: CPUs, memory and GPUs that jobs of this agent may really use."""

from __future__ import annotations

import os
import platform
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GPU_QUERY_LIMIT_S = 10.0
_UNLIMITED_MEMORY_BYTES = 1 << 60  # cgroup v1 writes a huge number for "no limit"


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured when the agent started."""

    hostname: str
    machine_id: str
    boot_id: str
    platform: str
    account: str
    cpu_millicores: int
    memory_bytes: int
    gpu_names: tuple[str, ...]

    @property
    def default_slots(self) -> int:
        """Runs at one time where nothing else was said: whole CPUs, at least one."""
        return max(1, self.cpu_millicores // 1000)


def measure(boot_id: str, root: Path = Path("/")) -> Machine:
    """Measures this machine; `root` is where /proc, /sys and /etc are looked for."""
    return Machine(
        hostname=platform.node(),
        machine_id=_first_line(root / "etc/machine-id"),
        boot_id=boot_id,
        platform=f"linux-{platform.machine()}",
        account=_account(),
        cpu_millicores=cpu_millicores(len(os.sched_getaffinity(0)), root),
        memory_bytes=memory_bytes(root),
        gpu_names=gpu_names(),
    )


def cpu_millicores(cpus: int, root: Path = Path("/")) -> int:
    """Thousandths of a core: the CPUs this process may run on, or the cgroup's quota if lower."""
    quota = _quota_millicores(root)
    return min(cpus * 1000, quota) if quota else cpus * 1000


def _quota_millicores(root: Path) -> int:
    """The lowest CPU quota of the cgroups above this process; 0: none."""
    found = 0
    for folder in _cgroup_folders(root, "cpu"):
        fields = _first_line(folder / "cpu.max").split()
        if not fields:
            fields = [
                _first_line(folder / "cpu.cfs_quota_us"),
                _first_line(folder / "cpu.cfs_period_us"),
            ]
        if len(fields) == 2 and fields[0].isdecimal() and fields[1].isdecimal() and int(fields[1]):
            quota = max(1, int(fields[0]) * 1000 // int(fields[1]))
            found = min(found or quota, quota)
    return found


def memory_bytes(root: Path = Path("/")) -> int:
    """The machine's memory, or the cgroup's limit if lower."""
    total = 0
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _first_line(folder / name)
            if text.isdecimal() and 0 < int(text) < _UNLIMITED_MEMORY_BYTES:
                total = min(total or int(text), int(text))
    return total


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The cgroups of this process for a controller and all above them, v2 and v1."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = base / path.strip("/")
        # In a container the path may be the host's, of which only the mount's root is visible.
        folders += [folder, *(p for p in folder.parents if p == base or base in p.parents), base]
    return folders


def gpu_names(
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
) -> tuple[str, ...]:
    """Names of the GPUs, by index; empty where there are none or they don't answer in time."""
    try:
        answer = run(
            ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GPU_QUERY_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    found = []
    for line in answer.stdout.splitlines():
        index, comma, name = line.partition(",")
        if comma and index.strip().isdecimal():
            found.append((int(index), name.strip()))
    return tuple(name for _, name in sorted(found))


def _account() -> str:
    """The account that jobs run as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _first_line(path: Path) -> str:
    """The first line of a small file, empty where it can't be read."""
    return _read(path).partition("\n")[0].strip()


def _read(path: Path) -> str:
    """A small file of the kernel, empty where it can't be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
