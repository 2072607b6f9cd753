"""A file system of a few MiB in memory that can really be full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CAP_SYS_ADMIN = 21


def lacking() -> str:
    """Why there can be none here; empty: there can."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    return "" if capabilities >> CAP_SYS_ADMIN & 1 else "mounting a tmpfs needs CAP_SYS_ADMIN"


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int, name: str = "disk") -> Iterator[Path]:
    """Mounts one below `folder` while the block runs, and gives its path."""
    path = folder / name
    path.mkdir()
    options = f"size={size_bytes},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ry-disk", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> Path:
    """Takes all the space that is left, with a file that the caller removes."""
    ballast = path / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        block_bytes = 1 << 20
        while block_bytes:
            try:
                os.write(fd, bytes(block_bytes))
            except OSError:
                block_bytes //= 2
    finally:
        os.close(fd)
    return ballast
