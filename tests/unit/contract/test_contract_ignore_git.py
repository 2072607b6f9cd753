"""The ignore rules against git itself: same tree, same files, same answer for every path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard_contract.ignore import IgnoreRules

GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(GIT is None, reason="git is the reference here")

FOLDERS = ("a", "b", "a/b", "a/c.txt", "b/a", "a/b/a", "a/b/[x]")
FILES = ("x", "c.txt", "a.py", "x y", "#x", "!x", "[x].txt", "x\\y")
PATHS = [
    *FOLDERS,
    *(f"{folder}/{name}" for folder in FOLDERS for name in FILES),
    *FILES,
]

segment = st.sampled_from(
    [
        "a",
        "b",
        "x",
        "*",
        "**",
        "?",
        "*.txt",
        "c.*",
        "a*",
        "[ab]",
        "[!a]",
        "[^x]",
        "[a-c].txt",
        "c.txt",
    ]
)
glob = st.lists(segment, min_size=1, max_size=3).map("/".join)
line = st.one_of(
    st.builds(
        lambda sign, start, body, end: sign + start + body + end,
        st.sampled_from(["", "", "!"]),
        st.sampled_from(["", "", "/"]),
        glob,
        st.sampled_from(["", "", "/", " ", "/ ", "/**"]),
    ),
    st.sampled_from(
        [
            "",
            "#x",
            "\\#x",
            "\\!x",
            "x\\ y",
            "x y",
            "x\\\\y",
            "/",
            "!",
            "x ",
            "*/",
            "!*/",
            "**/",
            "\\[x\\]*",
        ]
    ),
)
lines = st.lists(line, max_size=6)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in PATHS:
        if path not in FOLDERS:
            (root / path).touch()
    subprocess.run([str(GIT), "init", "-q", str(root)], check=True, env=_environ(root))
    return root


def _environ(root: Path) -> dict[str, str]:
    return {"HOME": str(root), "PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}


def ignored_by_git(root: Path) -> set[str]:
    found = subprocess.run(
        [str(GIT), "-C", str(root), "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(PATHS),
        capture_output=True,
        text=True,
        check=False,
        env=_environ(root),
    )
    assert found.returncode in {0, 1}, found.stderr
    return set(filter(None, found.stdout.split("\0")))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at_root=lines, below=lines, ending=st.sampled_from(["\n", "\r\n"]))
def test_same_files_are_ignored_as_by_git(
    tree: Path, at_root: list[str], below: list[str], ending: str
) -> None:
    (tree / ".gitignore").write_text("".join(f"{text}{ending}" for text in at_root), newline="")
    (tree / "a/.gitignore").write_text("".join(f"{text}\n" for text in below))

    rules = IgnoreRules.for_tree(tree)
    ours = {path for path in PATHS if rules.explain(path, (tree / path).is_dir())}

    assert ours == ignored_by_git(tree)
