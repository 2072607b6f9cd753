from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runyard_contract.errors import FileUnreadable
from runyard_contract.ignore import IgnoreRules, Rule, explain_missing
from runyard_contract.limits import IGNORE_FILE_BYTES


def rules(**files: str) -> IgnoreRules:
    """Rules of files given as git="…", amlignore="…", sub_git="…" (sub/.gitignore)."""
    paths = {"git": ".gitignore", "aml": ".amlignore", "runyard": ".runyardignore",
             "sub_git": "sub/.gitignore", "sub_aml": "sub/.amlignore"}  # fmt: skip
    return IgnoreRules.from_files({paths[key]: text.encode() for key, text in files.items()})


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"git": "", "aml": "", "runyard": ""}, ".runyardignore"),
        ({"git": "", "aml": ""}, ".amlignore"),
        ({"git": ""}, ".gitignore"),
        ({}, None),
        ({"sub_git": "*"}, None),
    ],
)
def test_first_kind_at_the_root_decides(files: dict[str, str], kind: str | None) -> None:
    assert rules(**files).kind == kind


def test_kinds_are_never_merged() -> None:
    some = rules(aml="*.csv", git="*.txt", sub_git="*")

    assert some.explain("a.csv")
    assert some.explain("a.txt") is None
    assert some.explain("sub/a.txt") is None


def test_rule_names_file_line_and_pattern() -> None:
    some = rules(git="# data\n\n*.csv\n", sub_git="x\n!a.csv\nlarge/\n")

    assert some.explain("b.csv") == Rule(".gitignore", 3, "*.csv")
    assert some.explain("sub/a.csv") is None
    assert some.explain("sub/large/a/b") == Rule("sub/.gitignore", 3, "large/")
    assert str(some.explain("b.csv")) == ".gitignore:3: *.csv"


def test_file_below_an_ignored_folder_can_not_come_back() -> None:
    assert rules(git="/data/\n!/data/keep.csv").explain("data/keep.csv") == Rule(
        ".gitignore", 1, "/data/"
    )


@pytest.mark.parametrize(
    "path",
    [".git", "sub/.git", ".git/config", ".azureml/x", "outputs/model.pkl", "logs/a", "__pycache__",
     "a/__pycache__/x.pyc", ".ipynb_checkpoints/n.ipynb"],
)  # fmt: skip
def test_built_in_list_keeps_out(path: str) -> None:
    rule = IgnoreRules.from_files({}).explain(path)

    assert rule is not None
    assert str(rule).startswith("built-in rule: ")


@pytest.mark.parametrize("path", ["a/outputs/x", "a/logs/x", ".gitignore", ".github/x", "train.py"])
def test_built_in_list_leaves_in(path: str) -> None:
    assert IgnoreRules.from_files({}).explain(path) is None


def test_file_named_outputs_is_no_folder() -> None:
    assert IgnoreRules.from_files({}).explain("outputs", is_dir=False) is None


def test_a_line_brings_the_built_in_list_back_but_never_git() -> None:
    some = rules(git="!outputs/\n!__pycache__\n!.git\n!.azureml")

    assert some.explain("outputs/x") is None
    assert some.explain("a/__pycache__/x") is None
    assert some.explain(".azureml/train.runconfig") is None
    assert some.explain(".git/config") == Rule("built-in", 0, ".git")


def test_deciding_files_are_part_of_the_snapshot_whatever_they_say() -> None:
    some = rules(git="*\n.gitignore\n!sub/")

    assert some.explain(".gitignore") is None
    assert some.explain("sub/.gitignore") is None
    assert some.explain(".amlignore") == Rule(".gitignore", 1, "*")


def test_virtual_environment_is_known_by_its_mark_and_can_come_back() -> None:
    listing = ["bin", "pyvenv.cfg"]

    rule = IgnoreRules.from_files({}).enter(("env",), listing).itself

    assert rule is not None
    assert "pyvenv.cfg" in str(rule)
    assert rules(git="!env/").enter(("env",), listing).itself is None
    assert IgnoreRules.from_files({}).enter((), listing).itself is None
    assert IgnoreRules.from_files({}).enter(("env",), ["bin"]).itself is None


def test_listing_spares_the_look_for_an_ignore_file(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def read(parts: tuple[str, ...]) -> bytes | None:
        asked.append(parts)
        return b"*.x" if parts == (".gitignore",) else None

    some = IgnoreRules(".gitignore", read)
    for _ in range(2):
        some.enter((), [".gitignore", "a"]).decide("f.x", False)
        some.enter(("a",), ["b"])

    assert asked == [(".gitignore",)]


def test_digest_changes_with_every_rule_above_and_with_no_other() -> None:
    base = rules(git="a", sub_git="b")
    other_root = rules(git="a2", sub_git="b")
    other_sub = rules(git="a", sub_git="b2")

    assert base.enter(("sub",)).digest == rules(git="a", sub_git="b").enter(("sub",)).digest
    assert base.enter(("sub",)).digest != other_root.enter(("sub",)).digest
    assert base.enter(("sub",)).digest != other_sub.enter(("sub",)).digest
    assert base.enter(()).digest == other_sub.enter(()).digest


def test_byte_order_mark_and_windows_line_ends_are_read() -> None:
    some = IgnoreRules.from_files({".gitignore": b"\xef\xbb\xbf*.csv\r\n!a.csv\r\n"})

    assert some.explain("b.csv") == Rule(".gitignore", 1, "*.csv")
    assert some.explain("a.csv") is None


def test_ignore_file_that_is_not_utf8_is_named_with_the_place() -> None:
    with pytest.raises(FileUnreadable, match=r"sub/\.gitignore.*byte 2"):
        IgnoreRules.from_files({".gitignore": b"", "sub/.gitignore": b"ab\xff"}).explain("sub/x")


def test_huge_ignore_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes(b"x" * (IGNORE_FILE_BYTES + 1))

    with pytest.raises(FileUnreadable, match="larger"):
        IgnoreRules.for_tree(tmp_path).explain("x")


def test_what_only_looks_like_an_ignore_file_counts_for_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".runyardignore")
    (tmp_path / ".amlignore").mkdir()
    (tmp_path / "patterns").write_text("*.csv\n")
    (tmp_path / ".gitignore").symlink_to("patterns")

    assert IgnoreRules.for_tree(tmp_path).explain("a.csv") == Rule(".gitignore", 1, "*.csv")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/train.csv", ".gitignore:1: data/"),
        ("./data/x/../train.csv", ".gitignore:1: data/"),
        ("model", ".gitignore:2: model/"),
        ("sub/a.tmp", "sub/.gitignore:1: *.tmp"),
        ("there.py", "None"),
        ("../data/x", "None"),
        ("/etc/data/x", "None"),
    ],
)
def test_missing_file_is_explained_from_the_unpacked_snapshot(
    tmp_path: Path, path: str, expected: str
) -> None:
    (tmp_path / ".gitignore").write_text("data/\nmodel/\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.gitignore").write_text("*.tmp\n")

    assert str(explain_missing(tmp_path, path)) == expected


@pytest.mark.parametrize(("line", "is_loaded"), [("/data/", "False"), ("*.csv", "True")])
def test_pathspec_is_loaded_only_when_a_pattern_needs_it(line: str, is_loaded: str) -> None:
    program = (
        "import sys\n"
        "from runyard_contract.ignore import IgnoreRules\n"
        f"rules = IgnoreRules.from_files({{'.gitignore': {line.encode()!r}}})\n"
        "print(rules.explain('data/x'), rules.explain('outputs/x'))\n"
        "print('pathspec' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == is_loaded
    assert "built-in rule: /outputs/" in done.stdout
