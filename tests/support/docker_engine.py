"""A real Docker engine of the tests' own, with images made of this machine's files.

No registry is asked: the base image is the running CPython, a shell and some tools, with the
libraries that they need.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

READY_LIMIT_S = 60.0
PYTHON_IMAGE = "runyard-test/python:3"
"""CPython in /usr/local, sh and the usual small tools."""
SHELL_IMAGE = "runyard-test/shell:1"
"""The same without Python."""
BARE_IMAGE = "runyard-test/bare:1"
"""One program without libraries of its own choosing, `/hello`, and no shell."""

_TOOLS = (
    *("bash", "cat", "chmod", "cp", "date", "echo", "env", "false", "grep", "head", "id", "kill"),
    *("ln", "ls", "mkdir", "mv", "ps", "pwd", "rm", "sed", "sh", "sleep", "stat", "tail", "tar"),
    *("touch", "tr", "true", "uname", "wc"),
)
_LIBRARY = re.compile(r"(/\S+) \(0x|=> (/\S+)")
_LEFT_OUT = frozenset(
    {
        *("__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests"),
        *("tkinter", "turtledemo"),
    }
)
# Becomes a program that hears SIGTERM when the thread of the tests is gone that has started it. Not
# between fork and exec: a process in which gRPC works can't be forked.
_END_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15, 0, 0, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
_HELLO = r"""
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    printf("hello %s\n", argc > 1 ? argv[1] : "nobody");
    fprintf(stderr, "to stderr\n");
    return argc > 2 ? 7 : 0;
}
"""


class DockerEngine:
    """An engine in a folder. It ends with the process that has started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What DOCKER_HOST has to be."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The engine's process."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        """Starts it, also after `kill`; containers that were running still are."""
        for left in (self.folder / "docker.pid", self._containerd_pid):
            left.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-I", "-S", "-c", _END_WITH_PARENT),
            *("dockerd", "--host", self.url, "--data-root", f"{self.folder}/data"),
            *("--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/docker.pid"),
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"),
            *("--bridge=none", "--live-restore", "--exec-opt", "native.cgroupdriver=cgroupfs"),
            "--max-download-attempts=2",  # the usual five take a minute
        ]
        with open(self.folder / "dockerd.log", "ab") as log:
            self._daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while self.docker("version", check=False).returncode != 0:
            assert self._daemon is not None
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "dockerd.log").read_text(errors="replace")
                pytest.fail(f"the engine does not start:\n{log[-4000:]}")
            time.sleep(0.05)

    @property
    def _containerd_pid(self) -> Path:
        return self.folder / "exec" / "containerd" / "containerd.pid"

    def kill(self) -> None:
        """Kills engine and containerd as a crash would; containers go on."""
        assert self._daemon is not None
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._containerd_pid.read_text()), signal.SIGKILL)
        self._daemon.kill()
        self._daemon.wait()

    def stop(self) -> None:
        """Removes all containers, ends the engine and takes down what it has mounted."""
        if self._daemon is None:
            return
        if self._daemon.poll() is None:
            names = self.docker("ps", "-aq", check=False).stdout.split()
            if names:
                self.docker("rm", "-f", *names, check=False)
            self._daemon.terminate()
            self._daemon.wait(READY_LIMIT_S)
        self._daemon = None
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for mount in reversed([line.split()[1] for line in mounts]):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", mount], check=False)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of Docker's own client against this engine."""
        return subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.url, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def containers(self, *filters: str) -> list[str]:
        """Ids of all containers, ended ones too."""
        wanted = [word for one in filters for word in ("--filter", one)]
        return self.docker("ps", "-aq", "--no-trunc", *wanted).stdout.split()

    def import_image(self, root: Path, name: str) -> str:
        """Makes an image of a folder; gives its id."""
        archive = self.folder / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, ".", filter=_owned_by_root)
        made = self.docker("import", "-c", f"ENV PATH={_PATH}", str(archive), name)
        archive.unlink()
        return made.stdout.strip()


_PATH = "/usr/local/bin:/usr/bin:/bin"


def skip_without_engine() -> None:
    """Skips a test where no engine can be started."""
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("there is no Docker engine here: install docker.io")
    if os.geteuid() != 0:
        pytest.skip("an engine of our own needs root")


def start_engine(folder: Path) -> Iterator[DockerEngine]:
    """An engine with the three images, for as long as the iterator lives; skips without one."""
    skip_without_engine()
    engine = DockerEngine(folder)
    try:
        engine.start()
        shell = folder / "roots" / "shell"
        make_shell_root(shell)
        engine.import_image(shell, SHELL_IMAGE)
        add_python(shell)
        engine.import_image(shell, PYTHON_IMAGE)
        shutil.rmtree(shell)
        bare = folder / "roots" / "bare"
        make_bare_root(bare)
        engine.import_image(bare, BARE_IMAGE)
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder, ignore_errors=True)


def make_shell_root(root: Path) -> None:
    """The files of an image with a shell and small tools."""
    for name in ("bin", "dev", "etc/ssl/certs", "proc", "root", "sys", "usr/bin", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o1777)
    for name in _TOOLS:
        found = shutil.which(name, path="/usr/bin:/bin")
        if found is not None:
            _copy(Path(found), root / "bin" / name)
            copy_libraries(Path(found), root)
    copy_libraries(Path(sys.executable).resolve(), root)  # of glibc, as images of systems have
    (root / "usr/bin/env").symlink_to("/bin/env")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    for folder in ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"):
        for library in ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"):
            if (path := Path(folder, library)).exists():
                _copy(path, root / str(path)[1:])
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        _copy(certificates, root / str(certificates)[1:])


def add_python(root: Path) -> None:
    """Adds the running CPython in /usr/local, without packages."""
    base = Path(sys.base_prefix)
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = root / "usr/local/lib" / minor
    shutil.copytree(
        base / "lib" / minor,
        library,
        symlinks=True,
        ignore=lambda folder, names: [name for name in names if name in _LEFT_OUT],
    )
    (library / "site-packages").mkdir()
    program = base / "bin" / minor
    _copy(program, root / "usr/local/bin" / minor)
    for link in ("python", "python3"):
        (root / "usr/local/bin" / link).symlink_to(minor)
    for library_path in (base / "lib").glob("libpython*.so*"):
        _copy(library_path, root / "usr/local/lib" / library_path.name)
    for binary in [program, *(base / "lib" / minor / "lib-dynload").glob("*.so")]:
        copy_libraries(binary, root)
    copy_libraries(Path(find_uv_bin()), root)  # which is mounted into it
    (root / "etc/ld.so.conf").write_text("/usr/local/lib\n")
    subprocess.run(["ldconfig", "-r", str(root)], check=True)


def make_bare_root(root: Path) -> None:
    """The files of an image with one static program, and no shell."""
    root.mkdir(parents=True)
    source = root.parent / "hello.c"
    source.write_text(_HELLO)
    subprocess.run(["cc", "-static", "-o", str(root / "hello"), str(source)], check=True)


def copy_libraries(binary: Path, root: Path) -> None:
    """Copies the libraries that a program needs to where it looks for them."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    for found in _LIBRARY.finditer(listed.stdout):
        path = found.group(1) or found.group(2)
        target = root / path[1:]
        if not path.startswith(sys.base_prefix) and not target.exists():
            _copy(Path(path), target)


def _copy(source: Path, target: Path) -> None:
    """Copies a file, not a link to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target, follow_symlinks=True)


def _owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def only(values: Iterable[str]) -> str:
    """The one value that there is."""
    (value,) = values
    return value
