"""Control groups that keep the limits of a run: where they can be made, made, asked, removed."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NOTE = "cgroups"
"""The file of a bundle that names its groups, for whoever comes after a crash."""
PERIOD_US = 100_000
UNKEPT = "its limits can't be kept on this node: "
ADVICE = "give smaller limits or none (`--memory-limit`, `--cpu-limit`), or use a larger node"


class NoGroups(OSError):
    """No control group for these limits can be made here; the text says why."""


class Limits:
    """What a run may use at most; 0: no limit."""

    __slots__ = ("cpu_millicores", "memory_bytes")

    def __init__(self, cpu_millicores: int, memory_bytes: int) -> None:
        self.cpu_millicores = cpu_millicores
        self.memory_bytes = memory_bytes

    @property
    def controllers(self) -> list[str]:
        """What has to keep them."""
        wanted = {"memory": self.memory_bytes, "cpu": self.cpu_millicores}
        return [name for name, amount in wanted.items() if amount]


def too_large_here(limits: Limits) -> str:
    """Which limit is more than this node has; "" where all fit."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return too_large(limits, os.cpu_count() or 1, memory_bytes)


def too_large(limits: Limits, cpus: int, memory_bytes: int) -> str:
    """Which limit is more than a node has, so that it would be none; "" where all fit."""
    if limits.memory_bytes > memory_bytes:
        return f"{limits.memory_bytes} bytes of memory are over the {memory_bytes} it has"
    if limits.cpu_millicores > cpus * 1000:
        return f"{limits.cpu_millicores / 1000:g} cores are over the {cpus} it has"
    return ""


def places(own: str, mounts: str) -> dict[str, tuple[str, str]]:
    """Where this process is: mount point and folder below it, by controller; "" is version 2.

    `own` is the text of /proc/self/cgroup, `mounts` that of /proc/self/mountinfo.
    """
    found: dict[str, tuple[str, str]] = {}
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, listed, path = line.split(":", 2)
        paths.update(dict.fromkeys(listed.split(","), path))
    for line in mounts.splitlines():
        first, _, last = line.partition(" - ")
        root, point = first.split()[3:5]
        fields = last.split()
        names = {"cgroup": fields[-1].split(","), "cgroup2": [""]}.get(fields[0], [])
        for name in paths.keys() & set(names):
            # In a container the mount may show a part of the tree only, which `root` names.
            path = paths[name]
            inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else "/"
            found.setdefault(name, (point, inside.strip("/")))
    return found


def choose(
    controllers: list[str], found: Mapping[str, tuple[str, str]]
) -> tuple[int, dict[str, str]]:
    """The version, and the folder to make a group in by controller; NoGroups where one has none."""
    if "" in found:
        folder = _delegated(controllers, *found[""])
        if folder:
            return 2, dict.fromkeys(controllers, folder)
    chosen = {}
    for name in controllers:
        if name not in found:
            raise NoGroups(errno.ENOTSUP, f"no control groups for {name}")
        folder = os.path.join(*found[name]).rstrip("/")
        if not os.access(folder, os.W_OK):
            raise NoGroups(errno.EACCES, f"the control groups for {name} are not writable")
        chosen[name] = folder
    return 1, chosen


def _delegated(controllers: list[str], point: str, inside: str) -> str:
    """Of version 2 the nearest folder that passes the controllers on and takes processes of ours.

    Where processes are, nothing can be passed on, so it is one above us; "" where there is none.
    """
    folder = os.path.join(point, inside).rstrip("/")
    while folder.startswith(point) and folder != "/":
        passed_on = _read(f"{folder}/cgroup.subtree_control").split()
        is_ours = os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
        if is_ours and set(controllers) <= set(passed_on):
            return folder
        folder = os.path.dirname(folder)
    return ""


class Group:
    """The control groups of one run; of version 1 one for each controller."""

    __slots__ = ("_bundle", "_folders", "_memory", "_version", "controllers")

    def __init__(self, bundle: str, name: str, limits: Limits) -> None:
        """Makes them with their limits; NoGroups where that can't be.

        The bundle notes them first, so that none is left behind by a crash.
        """
        found = places(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
        self._version, chosen = choose(limits.controllers, found)
        folders = {key: f"{folder}/{name}" for key, folder in chosen.items()}
        self._bundle = bundle
        self.controllers = limits.controllers
        """What it keeps."""
        self._folders = sorted(set(folders.values()))
        self._memory = folders.get("memory", "")
        try:
            _write(f"{bundle}/{NOTE}", "\n".join(self._folders), os.O_CREAT | os.O_TRUNC)
            for folder in self._folders:
                os.mkdir(folder)
            for path, text, is_needed in settings(self._version, limits, folders):
                _set(path, text, is_needed=is_needed)
        except OSError as error:
            self.remove()
            if isinstance(error, NoGroups):
                raise
            why = f"{error.filename}: {error.strerror}"
            raise NoGroups(error.errno or errno.EIO, why) from None

    @property
    def mechanism(self) -> str:
        """What keeps the limits, for people."""
        return f"cgroup v{self._version}"

    def open(self) -> list[int]:
        """Descriptors through which a process joins, by writing 0."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        return [os.open(f"{folder}/cgroup.procs", flags) for folder in self._folders]

    def kill(self) -> None:
        """Kills all that is in it in one step, where the kernel can."""
        if self._version == 2:
            kill(self._folders)

    def has_killed(self) -> bool:
        """Whether the kernel killed a process for the memory limit."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        for line in _read(f"{self._memory}/{name}").splitlines() if self._memory else ():
            field, _, count = line.partition(" ")
            if field == "oom_kill":
                return count != "0"
        return False

    def remove(self) -> None:
        """Removes them; no process may be left."""
        remove(self._bundle, self._folders)


def settings(
    version: int, limits: Limits, folders: Mapping[str, str]
) -> list[tuple[str, str, bool]]:
    """What is written where, in this order, and whether the limit is none without it."""
    memory, cpu = folders.get("memory", ""), folders.get("cpu", "")
    amount = str(limits.memory_bytes)
    quota_us = max(1000, limits.cpu_millicores * PERIOD_US // 1000)
    lines: list[tuple[str, str, bool]] = []
    if version == 2:
        if memory:
            lines.append((f"{memory}/memory.max", amount, True))
            lines.append((f"{memory}/memory.swap.max", "0", False))
            lines.append((f"{memory}/memory.oom.group", "1", False))
        if cpu:
            lines.append((f"{cpu}/cpu.max", f"{quota_us} {PERIOD_US}", True))
        return lines
    if memory:
        lines.append((f"{memory}/memory.limit_in_bytes", amount, True))
        lines.append((f"{memory}/memory.memsw.limit_in_bytes", amount, False))
    if cpu:
        lines.append((f"{cpu}/cpu.cfs_period_us", str(PERIOD_US), True))
        lines.append((f"{cpu}/cpu.cfs_quota_us", str(quota_us), True))
    return lines


def left_behind(bundle: str) -> list[str]:
    """The groups that a bundle notes: those of a run whose supervisor died."""
    return [line for line in _read(f"{bundle}/{NOTE}").splitlines() if line.startswith("/")]


def kill(folders: list[str]) -> None:
    """Kills all processes in groups of version 2; of others it does nothing."""
    for folder in folders:
        try:
            _write(f"{folder}/cgroup.kill", "1")
        except OSError:
            continue  # of version 1, or gone


def remove(bundle: str, folders: list[str]) -> None:
    """Removes groups, and the note of them when all are gone."""
    is_all = True
    for folder in folders:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            is_all = False
    if is_all:
        try:
            os.unlink(f"{bundle}/{NOTE}")
        except OSError:
            return  # the bundle is gone


def _set(path: str, text: str, *, is_needed: bool) -> None:
    try:
        _write(path, text)
    except OSError:
        if is_needed:
            raise


def _write(path: str, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
