from __future__ import annotations

import time
from pathlib import Path

import pytest

from runyard.yaml_document import YamlDocument, plain, read_yaml
from runyard_contract.errors import SpecInvalid


def test_every_scalar_is_the_text_that_was_written() -> None:
    document = YamlDocument(
        "f.yml", "a: [0.10, 1e-3, 010, 2019-01-01, yes, 'x', \"null\"]\nb: null\nc:\nd: ~\n"
    )

    assert plain(document.root) == {
        "a": ["0.10", "1e-3", "010", "2019-01-01", "yes", "x", "null"],
        "b": None,
        "c": None,
        "d": None,
    }


def test_unclosed_quote_names_the_line_it_begins_in() -> None:
    with pytest.raises(SpecInvalid, match=r"it begins in line 1"):
        YamlDocument("f.yml", 'a: "x\nb: 1\n')


def test_positions_are_lines_of_the_file() -> None:
    root = YamlDocument("f.yml", "# head\na: 1\nb:\n  - x\n  - y\n").root

    assert root.entries["a"].line == 2
    assert [item.line for item in root.entries["b"].items] == [4, 5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: [1\nc: 2\n", "f.yml:3:2: "),
        ('a: "x\nb: 1\n', "f.yml:3:1: "),
        ("\tx: 1", "f.yml:1:1: "),
        ("a: 1\nb: 2\na: 3\n", "f.yml:3:1: "),
        ("a: *nope", "f.yml:1:4: "),
        ("a: 1\n---\nb: 2\n", "f.yml:2:1: "),
        ("- a", "f.yml:1: "),
        ("? [a]\n: 1\n", "f.yml:1"),
        ("x: {? {a: [1]} : 2}\n", "f.yml:1"),
        ("a: \x00", "f.yml:1: "),
    ],
)
def test_broken_yaml_names_file_line_and_column(text: str, where: str) -> None:
    with pytest.raises(SpecInvalid) as error:
        YamlDocument("f.yml", text)

    assert error.value.message.startswith(where)
    assert error.value.metadata["file"] == "f.yml"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch /tmp/owned']",
        "a: !!python/name:os.system",
        "a: !custom {b: 1}",
        "!!python/object:x.Y {a: 1}",
        "a: !!binary aGVsbG8=",
    ],
)
def test_sec_41_yaml_tags_are_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match="tag"):
        YamlDocument("f.yml", text)


def test_sec_41_alias_bomb_ends_within_bounds() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    began = time.monotonic()

    with pytest.raises(SpecInvalid, match=r"more than 10,000 values, with aliases followed"):
        YamlDocument("f.yml", "\n".join(levels))

    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a\n  b: *a\n"])
def test_sec_41_alias_of_itself_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalid, match=r"f\.yml:\d: an alias cannot stand for"):
        YamlDocument("f.yml", text)


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 100_000, "a: " + "{" * 100_000, "- " * 60_000, "a: " + "[" * 40 + "]" * 40],
    ids=["brackets", "braces", "dashes", "closed"],
)
def test_sec_41_deep_documents_are_refused_at_once(text: str) -> None:
    began = time.monotonic()

    with pytest.raises(SpecInvalid, match="nested more than 32 levels deep"):
        YamlDocument("f.yml", text)

    assert time.monotonic() - began < 5


def test_sec_41_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "big.yml").write_text("a: " + "x" * (129 << 10))

    with pytest.raises(SpecInvalid, match="larger than 128 KiB"):
        read_yaml(tmp_path / "big.yml")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")

    with pytest.raises(SpecInvalid, match=r"latin\.yml is not UTF-8 text"):
        read_yaml(tmp_path / "latin.yml")
    with pytest.raises(SpecInvalid, match=r"cannot read .*gone\.yml: No such file"):
        read_yaml(tmp_path / "gone.yml")


def test_update_keeps_comments_and_what_is_equal() -> None:
    text = "# head\na: 1  # one\nb:\n  # inside\n  c: 'x'\n  gone: 1\nd: True\n"
    document = YamlDocument("f.yml", text)

    document.update(
        {"a": 2, "b": {"c": "x"}, "d": True, "e": "", "f": "null", "g": None, "h": [1, "7"]},
        {"h": [0]},
    )

    assert document.dump() == (
        "# head\na: 2  # one\nb:\n  # inside\n  c: 'x'\nd: True\n"
        'e: ""\nf: "null"\ng: null\nh:\n- 1\n- "7"\n'
    )


def test_update_leaves_out_absent_keys_that_have_their_default() -> None:
    document = YamlDocument("f.yml", "a: 1\n")

    document.update({"a": 1, "b": 2}, {"b": 2})

    assert document.dump() == "a: 1\n"
