from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_daemon.control.finish import find_kept_out
from support.served import tree

RULES = b"# data\n\ndata/\n*.csv\n"


@pytest.fixture
def content() -> Iterator[ContentStore]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    with ContentStore(root) as store:
        yield store
    shutil.rmtree(root)


def snapshot(content: ContentStore, files: dict[str, bytes | str]) -> str:
    root, blobs = tree(files)
    content.put_many((digest_bytes(blob), blob) for blob in blobs)
    return root


def traceback(path: str) -> bytes:
    error = f"FileNotFoundError: [Errno 2] No such file or directory: '{path}'"
    return f'Traceback (most recent call last):\n  File "a.py", line 1\n{error}\n'.encode()


@pytest.mark.parametrize(
    ("missed", "path", "rule"),
    [
        ("data/x.bin", "data/x.bin", ".gitignore:3: data/"),
        ("./sub/../table.csv", "table.csv", ".gitignore:4: *.csv"),
        ("/work/dir/data/x", "data/x", ".gitignore:3: data/"),
        ("outputs/old.txt", "outputs/old.txt", "built in: /outputs/"),
    ],
)
def test_the_rule_that_kept_a_missed_file_out_is_named(
    content: ContentStore, missed: str, path: str, rule: str
) -> None:
    root = snapshot(content, {"a.py": b"1", ".gitignore": RULES})

    kept = find_kept_out(traceback(missed), b"/work/dir", root, content)

    assert kept is not None
    assert (kept.path, kept.rule) == (path, rule)


@pytest.mark.parametrize("missed", ["other.txt", "/elsewhere/data/x", "../data/x", "/"])
def test_a_file_that_no_rule_kept_out_gives_nothing(content: ContentStore, missed: str) -> None:
    root = snapshot(content, {"a.py": b"1", ".gitignore": RULES})

    assert find_kept_out(traceback(missed), b"/work/dir", root, content) is None


def test_a_snapshot_that_can_not_be_read_gives_nothing(content: ContentStore) -> None:
    assert find_kept_out(traceback("data/x"), b"/", "0" * 64, content) is None
    assert find_kept_out(traceback("data/x"), b"/", "", content) is None
