"""A user's machine in a folder: the `runyard` command, a home, a clean environment, a clean-up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RUNYARD = Path(sys.executable).with_name("runyard")
COMMAND_LIMIT_S = 90.0
EXEC_LIMIT_S = 1.0
"""How long a process may be between two programs; one that hides its name for good is no news."""
CLEAN_UP_LIMIT_S = 10.0
KERNEL_THREAD = 0x00200000
"""PF_KTHREAD in the flags of /proc/PID/stat."""
# How this machine reaches its package index; no more of the shell comes along.
PACKAGE_INDEX_PREFIXES = ("UV_", "PIP_", "SSL_CERT_", "http_proxy", "https_proxy", "no_proxy")


class House:
    """A folder that stands for a user's account on this machine.

    Commands run as under `env -i`: PATH, HOME, LANG and what reaches the package index.
    The folder's path is short because Unix socket paths are bounded. `program` is the `runyard`
    that is run.
    """

    def __init__(self) -> None:
        self.program = RUNYARD
        self.root = Path(tempfile.mkdtemp(prefix="ry-", dir="/tmp"))
        self.home = self.root / "h"
        self.user_home = self.root / "u"
        self.user_home.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.user_home),
            "RUNYARD_HOME": str(self.home),
            "LANG": "C.UTF-8",
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(self.root / "uv")),
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(PACKAGE_INDEX_PREFIXES)
            },
        }

    def project(self, files: dict[str, str | bytes], *, name: str = "project") -> Path:
        """Writes a source directory and returns it."""
        folder = self.root / name
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        folder.mkdir(exist_ok=True)
        return folder

    def command(self, *args: str | bytes) -> list[str | bytes]:
        """The argument list that runs `runyard` with these arguments."""
        return [str(self.program), *args]

    def runyard(
        self,
        *args: str | bytes,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        limit_s: float = COMMAND_LIMIT_S,
        line: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a command to its end, with at most a line of input; returns exit code and output."""
        return subprocess.run(
            self.command(*args),
            cwd=cwd or self.root,
            env={**self.environment, **(env or {})},
            input=f"{line}\n".encode() if line else b"",
            capture_output=True,
            timeout=limit_s,
            check=False,
        )

    def json(self, *args: str, cwd: Path | None = None) -> Any:
        """Runs a command with --json that must succeed, and returns what it printed."""
        done = self.runyard(*args, "--json", cwd=cwd)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def background(
        self, *args: str | bytes, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a command beside the test; it is killed at the end if it still lives."""
        process = subprocess.Popen(
            self.command(*args),
            cwd=cwd or self.root,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def submit(self, *args: str, cwd: Path) -> str:
        """Submits without waiting and returns the run's id."""
        done = self.runyard("run", "--no-wait", "--json", *args, cwd=cwd)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        run_id: str = json.loads(done.stdout)["run_id"]
        return run_id

    def show(self, run_id: str) -> Any:
        """What `runs show --json` says of a run."""
        return self.json("runs", "show", run_id)

    def wait_for_state(self, run_id: str, *states: str, limit_s: float = COMMAND_LIMIT_S) -> Any:
        """Waits until a run is in one of these states (v1 words) and returns what `show` says."""
        return eventually(
            lambda: (shown := self.show(run_id))["status"] in states and shown,
            limit_s=limit_s,
            what=f"{run_id} in {states}",
        )

    def pids(self, marker: str) -> list[int]:
        """Processes of this house whose command line holds `marker`."""
        return [pid for pid in processes_naming(str(self.home)) if marker in command_line(pid)]

    def kill(self, marker: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Signals the processes of this house whose command line holds `marker`."""
        pids = self.pids(marker)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def close(self, *, keep: bool = False) -> None:
        """Ends everything that was started here and, unless told to keep it, removes the folder."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.runyard("daemon", "stop", "--cancel-runs", limit_s=30)
        end_processes_naming(str(self.root))
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)


def eventually(check: Callable[[], Any], *, limit_s: float = 30.0, what: str = "condition") -> Any:
    """Polls until `check` gives something true, and returns it; fails after `limit_s`.

    For conditions of other processes that give no signal to wait on.
    """
    deadline = time.monotonic() + limit_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"{what} did not come true within {limit_s:.0f} s"
        time.sleep(0.02)
    return value


def processes_naming(text: str) -> list[int]:
    """Living processes, other than this one, whose command line or environment holds `text`.

    One in the middle of an exec shows neither for a moment; it is waited for.
    """
    sought = text.encode()
    return [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and int(entry) != os.getpid() and sought in _name(int(entry))
    ]


def _name(pid: int) -> bytes:
    """Command line and environment of a living process; empty for any other."""
    deadline = time.monotonic() + EXEC_LIMIT_S
    while True:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if command:
                return command + Path(f"/proc/{pid}/environ").read_bytes()
            if not _is_between_programs(pid) or time.monotonic() > deadline:
                return b""
        except OSError:
            return b""
        time.sleep(0.001)


def _is_between_programs(pid: int) -> bool:
    """Whether a process without a command line will get one: no zombie, nothing of the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0] not in (b"Z", b"X") and not int(fields[6]) & KERNEL_THREAD


def end_processes_naming(text: str) -> None:
    """Kills all processes that `processes_naming` gives, until two looks in a row find none.

    One look is not enough: what is listed before it may start another after it and be gone.
    """
    deadline = time.monotonic() + CLEAN_UP_LIMIT_S
    clean_looks = 0
    while clean_looks < 2:
        left = processes_naming(text)
        clean_looks = 0 if left else clean_looks + 1
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < deadline, [command_line(pid) for pid in left]


def command_line(pid: int) -> str:
    """The command line of a process, empty when it is gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""
