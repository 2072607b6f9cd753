"""Makes the zip that goes on a job's PYTHONPATH: package `runyard_job` and a stand-in `runyard`."""

from __future__ import annotations

import os
import pathlib
import py_compile
import tempfile
import zipfile
from typing import Iterator

_EARLIEST = (1980, 1, 1, 0, 0, 0)  # zip's first day: the same sources give the same bytes
_NOT_SHIPPED = "bundle.py"


def write_zip(path: str | os.PathLike[str]) -> None:
    """Writes the job library's zip to `path`, in one step.

    The same sources give the same bytes under the same version of Python. Stored, not compressed:
    a job starts a little faster, and the bytes do not depend on a zlib. Beside each source lies its
    bytecode for this version of Python, which saves jobs of that version 6 ms; others skip it and
    compile the source. Raises `OSError` when it can't be written.
    """
    target = pathlib.Path(path)
    fd, staged = tempfile.mkstemp(prefix=".joblib-", dir=str(target.parent))
    try:
        with open(fd, "wb") as sink, zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for name, source in _sources():
                _add(archive, name, source.read_bytes())
                _add(archive, name + "c", _bytecode(name, source))
        os.chmod(staged, 0o644)
        os.replace(staged, target)
    except BaseException:
        os.unlink(staged)
        raise


def _sources() -> Iterator[tuple[str, pathlib.Path]]:
    """(name in the zip, source file), in order of names."""
    package = pathlib.Path(__file__).parent
    yield "runyard/__init__.py", package / "_facade" / "runyard_init.py"
    for source in sorted(package.glob("*.py")):
        if source.name != _NOT_SHIPPED:
            yield "runyard_job/" + source.name, source


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = 3  # Unix, also when made elsewhere: it is part of the bytes
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _bytecode(name: str, source: pathlib.Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "module.pyc")
        py_compile.compile(
            str(source),
            target,
            dfile=name,
            doraise=True,
            # Nothing to check against: source and bytecode only ever change together, in the zip.
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return pathlib.Path(target).read_bytes()
