"""Folders of built environments: what is sealed of them, and laid out elsewhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from runyard_agent.environments.sealing import NotSealable, Part, Survey, survey
from runyard_agent.environments.unsealing import place
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, SealedInvalid
from runyard_contract.sealed import Sealed, SealedFile, SealedLink

LONG = "/opt/placehold" + "_placehold" * 20
NOW_NS = time.time_ns()


class Blobs:
    """Contents in memory."""

    def __init__(self, contents: Iterable[bytes] = ()) -> None:
        self.held = {digest_bytes(data): data for data in contents}

    def read(self, digest: str) -> bytes:
        if digest not in self.held:
            raise BlobMissing.of([digest])
        return self.held[digest]

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int) -> int:
        raise NotImplementedError


def write(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)
    os.utime(path, ns=(NOW_NS - 10**9, NOW_NS - 10**9))


def data_of(part: Part) -> bytes:
    return Path(part.local.root, part.local.path).read_bytes()


def sealed(found: Survey) -> tuple[Sealed, Blobs]:
    """What the daemon would keep of a survey."""
    files = [
        SealedFile(
            *(part.path, digest_bytes(data_of(part)), len(data_of(part))),
            *(part.is_executable, part.placement),
        )
        for part in found.parts
    ]
    described = Sealed(
        *("conda", "0" * 64, "linux-64", "3.11.7", 1, "", "test"),
        tuple(files),
        tuple(found.links),
    )
    return described, Blobs(data_of(part) for part in found.parts)


def look(folder: Path, tmp_path: Path, kind: str = "conda") -> Survey:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return survey(folder, kind, NOW_NS, scratch)


def conda(folder: Path) -> None:
    """An environment of conda packages with its own folder's path in it."""
    binary = f"\x7fELF{LONG}/lib\0\0more".replace(LONG, str(folder))
    padding = "\0" * (len(LONG) - len(str(folder)))
    write(folder / "bin/tool", binary.replace("\0\0", f"\0{padding}\0"), 0o755)
    write(folder / "bin/script", f"#!{folder}/bin/python\nprint(1)\n", 0o755)
    write(folder / "lib/plain.py", "x = 1\n")
    write(folder / "lib/__pycache__/plain.pyc", b"cached")
    write(folder / "share/terminfo/E/x", b"E")
    write(folder / "share/terminfo/e/x:y", b"e")
    (folder / "lib/link.py").symlink_to("plain.py")
    (folder / "lib/far.py").symlink_to(folder / "bin/script")
    write(folder / "ready.json", b"{}")
    write(folder / "activation.json", str(folder))
    paths = [{"_path": "bin/tool", "prefix_placeholder": LONG, "file_mode": "binary"}]
    write(folder / "conda-meta/tool.json", json.dumps({"paths_data": {"paths": paths}}))


def test_environment_comes_out_in_another_folder_as_if_it_was_built_there(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "elsewhere" / "deeper" / "there"
    conda(here)
    there.mkdir(parents=True)

    place(*sealed(look(here, tmp_path)), there)

    script = there / "bin/script"
    assert script.read_text() == f"#!{there}/bin/python\nprint(1)\n"
    assert os.access(script, os.X_OK)
    tool = (there / "bin/tool").read_bytes()
    assert tool.startswith(b"\x7fELF" + os.fsencode(there) + b"/lib\0")
    assert len(tool) == (here / "bin/tool").stat().st_size
    assert tool.endswith(b"\0more")
    assert (there / "share/terminfo/e/x:y").read_bytes() == b"e"
    assert os.readlink(there / "lib/link.py") == "plain.py"
    assert os.readlink(there / "lib/far.py") == "../bin/script"
    for left_out in ("ready.json", "activation.json", "lib/__pycache__"):
        assert not (there / left_out).exists()


def test_what_is_sealed_does_not_tell_where_it_was_built(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "longer-name"
    conda(first)
    conda(second)

    found = [
        sealed(survey(one, "conda", NOW_NS, _made(tmp_path / f"s{one.name}")))[0]
        for one in (first, second)
    ]

    assert found[0] == found[1]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_link_to_the_python_of_the_node_is_left_to_the_node(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    write(venv / "pyvenv.cfg", "home = /usr/bin\n")
    write(venv / "lib/six.py", "x = 1\n")
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "bin/python3").symlink_to("python")
    (venv / "lib64").symlink_to("lib")

    found = look(venv, tmp_path, "pip")

    assert [part.path for part in found.parts] == ["lib/six.py"]
    assert found.links == [SealedLink("lib64", "lib")]


def test_environment_with_what_no_other_node_can_have_is_not_sealed(tmp_path: Path) -> None:
    for number, (make, why) in enumerate(
        [
            (lambda f: (f / "out").symlink_to("/etc/passwd"), "leads out of it to /etc/passwd"),
            (lambda f: write(f / "x.so", b"\x7fELF\0" + os.fsencode(f) + b"\0"), "no package says"),
            (lambda f: os.mkfifo(f / "pipe"), "neither a file nor a link"),
            (lambda f: (f / "new.py").write_text("x"), "new.py was changed after it was built"),
        ]
    ):
        folder = tmp_path / str(number)
        conda(folder)
        make(folder)
        os.utime(folder / "x.so", ns=(0, 0)) if (folder / "x.so").exists() else None
        if (folder / "new.py").exists():
            os.utime(folder / "new.py", ns=(NOW_NS + 10**9, NOW_NS + 10**9))

        with pytest.raises(NotSealable, match=why):
            survey(folder, "conda", NOW_NS, _made(tmp_path / f"scratch{number}"))


def test_what_is_there_stays_where_that_is_wanted_and_else_is_refused(tmp_path: Path) -> None:
    described, blobs = _one("lib/a.py", b"sealed")
    write(tmp_path / "lib/a.py", b"own")

    place(described, blobs, tmp_path, keeps_existing=True)
    with pytest.raises(SealedInvalid, match="comes twice"):
        place(described, blobs, tmp_path)

    assert (tmp_path / "lib/a.py").read_bytes() == b"own"


def test_folder_that_somebody_made_a_link_is_not_followed(tmp_path: Path) -> None:
    folder, outside = _made(tmp_path / "folder"), _made(tmp_path / "outside")
    (folder / "lib").symlink_to(outside)

    with pytest.raises(OSError, match="lib"):
        place(*_one("lib/a.py", b"x"), folder, keeps_existing=True)

    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["ready.json", "last-used", "activation.json"])
def test_record_of_the_node_cannot_come_from_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(SealedInvalid, match="runyard's own"):
        place(*_one(name, b"{}"), tmp_path)


def test_content_of_another_size_and_content_that_is_missing_are_refused(tmp_path: Path) -> None:
    described, blobs = _one("a", b"sealed")
    (file,) = described.files

    with pytest.raises(SealedInvalid, match="another size"):
        place(replace(described, files=(replace(file, size_bytes=7),)), blobs, tmp_path)
    with pytest.raises(BlobMissing):
        place(*(_one("b", b"other")[0], blobs), tmp_path)


def _one(path: str, data: bytes) -> tuple[Sealed, Blobs]:
    file = SealedFile(path, digest_bytes(data), len(data))
    described = Sealed("pip", "0" * 64, "linux-64", "3.11.7", 1, "", "test", (file,))
    return described, Blobs([data])
