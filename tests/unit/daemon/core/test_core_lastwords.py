from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_daemon.core.lastwords import find_exception, last_lines, missed_paths


def stderr_of(source: str) -> bytes:
    """What this interpreter really prints: formats change between versions."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=False, timeout=30
    )
    return done.stderr


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("raise ValueError('bad alpha')", "ValueError: bad alpha"),
        ("raise KeyError('a')", "KeyError: 'a'"),
        ("raise ValueError", "ValueError"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("def f(:\n  pass", "SyntaxError: invalid syntax"),
        ("import json; json.loads('{')", None),
        (
            "try:\n  1/0\nexcept ZeroDivisionError as e:\n  raise RuntimeError('outer') from e",
            "RuntimeError: outer",
        ),
        ("raise ExceptionGroup('many', [ValueError('one')])", None),
    ],
)
def test_exception_of_a_real_traceback_is_found(source: str, text: str | None) -> None:
    found = find_exception(stderr_of(source))

    assert found is not None
    if text is None:
        assert found.type in ("json.decoder.JSONDecodeError", "ExceptionGroup", "ValueError")
    else:
        assert found.text == text


def test_exception_is_that_of_the_last_traceback_and_not_of_what_is_printed_after_it() -> None:
    tail = stderr_of("raise ValueError('first')") + stderr_of("raise TypeError('second')")

    found = find_exception(tail + b"wandb: run finished\nError: see above\n")

    assert found is not None
    assert found.text == "TypeError: second"


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"ValueError: printed, not raised\n",
        b'Traceback (most recent call last):\n  File "a.py", line 1\n    cut off',
    ],
)
def test_no_exception_is_found_where_there_is_no_whole_traceback(tail: bytes) -> None:
    assert find_exception(tail) is None


def test_missing_module_is_found_and_could_have_been_these_files() -> None:
    tail = stderr_of("import nosuchpackage.inner")

    found = find_exception(tail)

    assert found is not None
    assert found.module == "nosuchpackage"
    assert missed_paths(tail) == ("nosuchpackage.py", "nosuchpackage/__init__.py", "nosuchpackage")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("open('data/iris.csv')", "data/iris.csv"),
        ('open("it\'s.csv")', "it's.csv"),
        ("open(b'raw.bin')", "raw.bin"),
        ("import os; os.rename('old.txt', 'new.txt')", "old.txt"),
        ("import subprocess; subprocess.run(['cat', 'notes.txt'])", "notes.txt"),
    ],
)
def test_missed_file_is_found_in_what_really_was_printed(source: str, path: str) -> None:
    assert missed_paths(stderr_of(source)) == (path,)


def test_missed_script_is_found_when_the_interpreter_cannot_open_it() -> None:
    done = subprocess.run(
        [sys.executable, "nosuchscript.py"], capture_output=True, check=False, timeout=30
    )

    (path,) = missed_paths(done.stderr)

    assert path.endswith("/nosuchscript.py")


def test_nothing_is_missed_where_no_file_is_named() -> None:
    assert missed_paths(stderr_of("raise ValueError('x')")) == ()


def test_last_lines_are_what_a_person_saw() -> None:
    tail = b"first\n\n\x1b[31mred\x1b[0m\n10%\r50%\r100%\nlast\xff\n"

    assert last_lines(tail, count=3) == ("red", "100%", "last\N{REPLACEMENT CHARACTER}")
    assert last_lines(b"", count=3) == ()


def test_last_lines_are_bounded() -> None:
    lines = last_lines(b"x" * 1_000_000)

    assert [len(line) for line in lines] == [400]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(tail: bytes) -> None:
    assert isinstance(last_lines(tail), tuple)
    assert isinstance(missed_paths(tail), tuple)
    find_exception(b"Traceback (most recent call last):\n" + tail)
