"""Which version of the GNU C library a built environment needs of another node."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_TAG = re.compile(r"^Tag: [^-\s]+-[^-\s]+-(?P<platform>\S+)$", re.MULTILINE)
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_NAMES = {"manylinux2014_": (2, 17), "manylinux2010_": (2, 12), "manylinux1_": (2, 5)}
_INSTALLED_BY_CONDA = "conda"


def libc_version() -> str:
    """The version of this node's GNU C library, such as "2.36"; empty: it has another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return ""
    return version if name == "glibc" else ""


def needed_libc(folder: Path) -> str:
    """What an environment's pip packages need at least, by the tags of their wheels. Blocks.

    What was compiled on this node needs this node's version. Empty: nothing; conda's own packages
    are checked by its solver.
    """
    needed: tuple[int, ...] = ()
    for wheel in folder.glob("lib/python*/site-packages/*.dist-info/WHEEL"):
        try:
            if wheel.with_name("INSTALLER").read_text().strip() == _INSTALLED_BY_CONDA:
                continue
        except (OSError, UnicodeDecodeError):
            pass
        needed = max(needed, _of_wheel(wheel))
    return ".".join(map(str, needed))


def is_older(version: str, than: str) -> bool:
    """Whether a version such as "2.36" is older than another one."""
    return _numbers(version) < _numbers(than)


def _of_wheel(path: Path) -> tuple[int, ...]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return needed_by(found["platform"] for found in _TAG.finditer(text))


def needed_by(platforms: Iterable[str]) -> tuple[int, ...]:
    """What a wheel with these platforms in its tags needs: the least of them."""
    needs = [_of_platform(one) for tag in platforms for one in tag.split(".")]
    return min(needs, default=())


def _of_platform(platform: str) -> tuple[int, ...]:
    if found := _MANYLINUX.match(platform):
        return int(found[1]), int(found[2])
    for name, version in _OLD_NAMES.items():
        if platform.startswith(name):
            return version
    return _numbers(libc_version()) if platform.startswith("linux_") else ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
