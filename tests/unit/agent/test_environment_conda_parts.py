from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from runyard_agent.environments.activation import keep_variables, read_variables
from runyard_agent.environments.conda_diagnosis import explain
from runyard_agent.environments.conda_lock import CondaLock, CondaPackage, read_lock, write_lock
from runyard_agent.environments.protocol import EnvironmentFailed

PYTHON = {"name": "python", "version": "3.11.4", "build": "h1_0"}
SIX = {"name": "six", "version": "1.16.0", "build": "py_0", "depends": ["python"]}
PIP = "a==1 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\nb @ git+https://x.example/b@c0ffee\n"


def test_lock_is_read_as_it_was_written() -> None:
    lock = CondaLock(
        packages=(
            CondaPackage("https://x.example/c/linux-64/python.conda", "sha256:ab", PYTHON),
            CondaPackage("https://x.example/c/noarch/six.tar.bz2", "cd", SIX),
            CondaPackage("file:///c/noarch/seven.conda", "", {**SIX, "name": "seven"}),
        ),
        needs=("__glibc >=2.17", "__unix"),
        pip=PIP,
    )

    text = write_lock(lock)

    assert read_lock(text) == lock
    assert (lock.python, lock.pip_count) == ("3.11.4", 2)
    explicit = [line for line in text.splitlines() if not line.startswith("#")]
    assert explicit == [
        "@EXPLICIT",
        "https://x.example/c/linux-64/python.conda#sha256:ab",
        "https://x.example/c/noarch/six.tar.bz2#cd",
        "file:///c/noarch/seven.conda",
    ]


def test_lock_without_python_has_none() -> None:
    assert CondaLock((), ()).python == ""
    assert CondaLock((), ()).pip_count == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"kind": "uninstalled", "package": "six", "said": "x: No space left on device"},
            "the disk is full",
        ),
        (
            {"kind": "uninstalled", "package": "six", "said": "failed\nCaused by: gone"},
            "the conda package six could not be installed: failed Caused by: gone",
        ),
        (
            {"kind": "uninstalled", "package": "", "said": "failed to link"},
            "the conda packages could not be installed: failed to link",
        ),
        (
            {"kind": "unfit", "said": "__osx >=11", "has": ["__unix 0"]},
            "this node lacks what conda calls __osx (__osx >=11)",
        ),
        ({"kind": "broken", "said": "it ended with -9"}, "failed: it ended with -9"),
        (
            {"kind": "unreadable", "said": "no\nsense"},
            "conda can't read what is asked for: no sense",
        ),
        (
            {"kind": "unsolvable", "said": "something new", "specs": ["six"]},
            "the conda packages contradict each other: something new",
        ),
    ],
)
def test_fault_is_told_in_a_sentence(fault: dict[str, object], message: str) -> None:
    found = explain(fault)

    assert message in found.message
    assert "\n" not in found.message
    assert found.advice


def test_long_contradiction_is_cut() -> None:
    said = "".join(
        f"\u251c\u2500 p{number} * can be installed with:\n"
        f"\u2502  \u2514\u2500 p{number} 1.0 would require\n"
        f"\u2502     \u2514\u2500 q >={number}, which can be installed with:\n"
        for number in range(50)
    )

    found = explain({"kind": "unsolvable", "said": said, "specs": ["q=1"]})

    assert found.message.endswith(
        "p0 1.0 needs q >=0; p1 1.0 needs q >=1; p2 1.0 needs q >=2; p3 1.0 needs q >=3; …"
    )


def activate(prefix: Path, script: str) -> dict[bytes, bytes]:
    """The variables of an environment with one activation script."""
    folder = prefix / "etc" / "conda" / "activate.d"
    folder.mkdir(parents=True)
    (folder / "x.sh").write_text(script)
    with (prefix / "lock").open("w") as lock:
        asyncio.run(keep_variables(prefix, "/home/of/agent", lambda said: None, lock.fileno()))
    found = read_variables(prefix)
    assert found is not None
    return found


def test_activation_keeps_values_of_any_bytes(tmp_path: Path) -> None:
    script = "export A=$(printf 'one\\ntwo\\377') B=$HOME CONDA_SHLVL=7; unset HOME\n"

    found = activate(tmp_path, script)

    prefix = os.fsencode(tmp_path)
    assert found == {
        b"CONDA_PREFIX": prefix,
        b"CONDA_DEFAULT_ENV": prefix,
        b"A": b"one\ntwo\xff",
        b"B": b"/home/of/agent",
    }


def test_activation_script_that_ends_the_shell_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match=r"activate\.d ended with 3"):
        activate(tmp_path, "exit 3\n")


def test_unreadable_activation_values_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "conda" / "env_vars.d"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("[1]")

    with pytest.raises(EnvironmentFailed, match=r"can't be read: x\.json"):
        activate(tmp_path, "true\n")
