"""Which folder is sent, which Python runs, and amounts as people write them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runyard import quantities
from runyard.caller_environment import caller_environment
from runyard.interpreter import InterpreterChoice, submitting_interpreter
from runyard.snapshot.source import Source, find_source
from runyard_contract.errors import SourceInvalid, SpecInvalid


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scripts in and beside it; the current folder."""
    for name in ("here/train.py", "here/sub/deep.py", "here/sub/train.py", "beside/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_current_folder_is_the_source_where_the_script_lies_in_it(here: Path) -> None:
    assert find_source(None, "sub/deep.py") == Source(str(here), "sub/deep.py")
    assert find_source(None, here / "sub/deep.py") == Source(str(here), "sub/deep.py")
    assert find_source(None, None) == Source(str(here), "")


def test_scripts_own_folder_is_the_source_elsewhere(here: Path) -> None:
    beside = here.parent / "beside"

    assert find_source(None, "../beside/other.py") == Source(str(beside), "other.py")


def test_given_source_comes_first_and_the_command_line_looks_from_where_it_is(here: Path) -> None:
    sub = str(here / "sub")

    assert find_source("sub", "train.py") == Source(sub, "train.py")
    assert find_source("sub", "sub/train.py") == Source(sub, "train.py")
    # ./train.py exists and is outside: the one inside the source directory is meant
    assert find_source("sub", "train.py", script_from_cwd=True) == Source(sub, "train.py")
    assert find_source(".", "sub/train.py", script_from_cwd=True) == Source(
        str(here), "sub/train.py"
    )


def test_what_is_missing_or_outside_is_named(here: Path) -> None:
    with pytest.raises(SourceInvalid, match=r'no script trian\.py.*did you mean "train\.py"'):
        find_source(None, "trian.py")
    with pytest.raises(SourceInvalid, match=r"beside/other\.py is not in the source directory"):
        find_source("sub", "../beside/other.py")
    with pytest.raises(SourceInvalid, match="nowhere does not exist"):
        find_source("nowhere", "train.py")
    with pytest.raises(SourceInvalid, match=r"train\.py is not a folder"):
        find_source("train.py", "x.py")


def test_folders_that_nobody_means_are_refused_unless_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / ".ssh").mkdir()
    with pytest.raises(SourceInvalid, match=r"holds \.ssh") as caught:
        find_source(None, "train.py")
    assert "--source" in caught.value.hint
    assert find_source(".", "train.py").script == "train.py"

    monkeypatch.setenv("HOME", str(here / "sub"))
    monkeypatch.chdir(here / "sub")
    with pytest.raises(SourceInvalid, match="home directory"):
        find_source(None, "train.py")
    monkeypatch.chdir("/")
    with pytest.raises(SourceInvalid, match="root of the file system"):
        find_source(None, None)


def make_python(path: Path) -> str:
    path.parent.mkdir(parents=True)
    path.symlink_to(sys.executable)
    return str(path)


def test_interpreter_order_of_the_command_line(tmp_path: Path) -> None:
    venv = make_python(tmp_path / "venv/bin/python")
    conda = make_python(tmp_path / "conda/bin/python")
    project = make_python(tmp_path / "source/.venv/bin/python")
    on_path = make_python(tmp_path / "bin/python3")
    source = str(tmp_path / "source")
    environ = {
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "CONDA_PREFIX": str(tmp_path / "conda"),
        "PATH": f"relative:{tmp_path / 'empty'}:{tmp_path / 'bin'}",
    }

    def chosen() -> str:
        return InterpreterChoice(environ, source, None).choose().path

    assert chosen() == venv
    del environ["VIRTUAL_ENV"]
    assert chosen() == conda
    os.unlink(conda)
    assert chosen() == project
    os.unlink(project)
    Path(project).write_text("not a program")
    Path(project).chmod(0o755)
    assert chosen() == on_path
    environ["PATH"] = ""
    assert chosen() == sys.executable


def test_shim_is_asked_once_for_its_interpreter(tmp_path: Path) -> None:
    real = make_python(tmp_path / "versions/bin/python3")
    shim = tmp_path / "shims/python3"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\necho asked >> {tmp_path}/asked\nexec {real} "$@"\n')
    shim.chmod(0o755)
    source = tmp_path / "source"
    source.mkdir()
    cache = tmp_path / "client"
    cache.mkdir()

    def choose() -> str:
        environ = {"PATH": str(shim.parent)}
        return InterpreterChoice(environ, str(source), cache).choose().path

    assert [choose(), choose()] == [real, real]
    assert (tmp_path / "asked").read_text() == "asked\n"
    (source / ".python-version").write_text("3.12\n")
    choose()
    assert (tmp_path / "asked").read_text() == "asked\nasked\n"


def test_program_that_submits_gives_its_own_interpreter() -> None:
    assert submitting_interpreter().path == sys.executable


def test_caller_environment_takes_named_variables_too() -> None:
    environ = {b"A": b"\xff", b"B": b"2", b"PATH": b"/bin", b"no_proxy": b"x", b"NO_PROXY": b"y"}

    assert list(caller_environment(environ, (b"A", b"missing")).items()) == [
        (b"A", b"\xff"),
        (b"NO_PROXY", b"y"),
        (b"PATH", b"/bin"),
        (b"no_proxy", b"x"),
    ]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [(1, 1), ("1024", 1024), ("2k", 2048), ("1.5 GiB", 3 << 29), ("512MB", 512 << 20)],
)
def test_sizes(text: int | str, size_bytes: int) -> None:
    assert quantities.memory_bytes(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90), ("90", 90), ("1.5s", 1.5), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800)],
)
def test_durations(text: float | str, seconds: float) -> None:
    assert quantities.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1x", "h", "400d", "nan", "inf"])
def test_absurd_durations_are_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match="max_duration"):
        quantities.duration_s(text)
