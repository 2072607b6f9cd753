"""Python packages made by a test, so that builders can be tested without a package index."""

from __future__ import annotations

import io
import os
import select
import tarfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

WAIT_LIMIT_S = 60.0

_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
# A build backend without dependencies. What comes before the wheel is written is the test's.
_BACKEND = """
import os, zipfile
FOLDER = "{name}-{version}.dist-info"
FILES = {{FOLDER + "/METADATA": {metadata!r}, FOLDER + "/WHEEL": {wheel!r}}}

def prepare_metadata_for_build_wheel(into, settings=None):
    os.makedirs(os.path.join(into, FOLDER))
    for name, content in FILES.items():
        with open(os.path.join(into, name), "w") as file:
            file.write(content)
    return FOLDER

def build_wheel(into, settings=None, metadata=None):
    before_wheel()
    name = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(into, name), "w") as wheel:
        for path, content in FILES.items():
            wheel.writestr(path, content)
        wheel.writestr("{name}.py", "VERSION = {version!r}\\n")
        wheel.writestr(FOLDER + "/RECORD", "")
    return name

{before_wheel}
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    python: str = "",
    at_start: str = "",
) -> Path:
    """Writes a wheel with the module `name`, whose VERSION is the version.

    `at_start` is one line of Python that each interpreter runs which finds it installed.
    """
    info = f"{name}-{version}.dist-info"
    metadata = _metadata(name, version)
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    metadata += f"Requires-Python: {python}\n" if python else ""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": _WHEEL,
        **({f"{name}.pth": f"import os; {at_start}\n"} if at_start else {}),
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(member, content)
    return path


def make_sdist(folder: Path, name: str, version: str, before_wheel: str) -> Path:
    """Writes a source distribution whose build first calls `before_wheel`, a function of no
    arguments in this source text."""
    backend = _BACKEND.format(
        name=name,
        version=version,
        metadata=_metadata(name, version),
        wheel=_WHEEL,
        before_wheel=before_wheel,
    )
    files = {
        "PKG-INFO": _metadata(name, version),
        "pyproject.toml": _PROJECT,
        "backend.py": backend,
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, content in files.items():
            info = tarfile.TarInfo(f"{name}-{version}/{member}")
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def _metadata(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


class Gate:
    """Where a build waits until the test lets it go on; tells when builds come, and that they end.

    A build writes a byte to the FIFO `entered` and keeps it open for as long as it lives; then it
    opens `gate`, which blocks while that is a FIFO.
    """

    def __init__(self, folder: Path) -> None:
        self.entered = 0
        self._name = f"gate-{os.urandom(4).hex()}"
        self._gate = folder / "gate"
        self._arrivals = folder / "entered"
        os.mkfifo(self._gate)
        os.mkfifo(self._arrivals)
        self._fd = os.open(self._arrivals, os.O_RDONLY | os.O_NONBLOCK)

    @property
    def before_wheel(self) -> str:
        """What the build has to call: see `make_sdist`."""
        return (
            "def before_wheel():\n"
            f"    arrivals = open({str(self._arrivals)!r}, 'wb', buffering=0)\n"
            "    arrivals.write(b'.')\n"
            f"    open({str(self._gate)!r}).close()\n"
        )

    @property
    def at_start(self) -> str:
        """The same for interpreters that start in a container: see `make_wheel`.

        The first one waits, where it sees the gate.
        """
        code = (
            f"if os.path.exists({str(self._arrivals)!r}):\n"
            "    try:\n"
            f"        os.mkdir('/tmp/{self._name}')\n"
            "    except FileExistsError:\n"  # another interpreter of the same build waits
            "        pass\n"
            "    else:\n"
            f"        arrivals = open({str(self._arrivals)!r}, 'wb', buffering=0)\n"
            "        arrivals.write(b'.')\n"
            f"        open({str(self._gate)!r}).close()\n"
        )
        return f"exec({code!r})"

    def wait_entered(self) -> None:
        """Waits until one more build has come."""
        assert self._read(), "the build ended before it came to the gate"
        self.entered += 1

    def wait_left(self) -> None:
        """Waits until no build lives any more."""
        while self._read():
            self.entered += 1

    def open(self) -> None:
        """Lets all builds go on, those that come later too."""
        fifo = os.open(self._gate, os.O_RDWR)  # releases who waits
        self._gate.unlink()
        self._gate.touch()
        os.close(fifo)

    def close(self) -> None:
        """Ends the watching."""
        os.close(self._fd)

    def _read(self) -> bytes:
        """One byte when a build comes; nothing when there was one and none lives any more."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        until_s = time.monotonic() + WAIT_LIMIT_S
        while (left_s := until_s - time.monotonic()) > 0:
            if poll.poll(left_s * 1000):
                return os.read(self._fd, 1)
        raise AssertionError("no build came or went in time")
