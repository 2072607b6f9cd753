"""What a script prints can colour a terminal, and do nothing else to it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.cli.render.terminal import TerminalFilter
from runyard.cli.render.text import clean, clean_line

# What may be left of escape sequences: colours, erase-line, cursor-up.
HARMLESS = re.compile(rb"\x1b\[(?:[0-9;:]*m|[012]?K|[0-9]*A)")
CONTROLS = re.compile(rb"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")

ATTACKS = {
    "clipboard, ended by BEL": b"\x1b]52;c;cm0gLXJmIH4K\x07",
    "clipboard, ended by ST": b"\x1b]52;c;cm0gLXJmIH4K\x1b\\",
    "clipboard, 8-bit": "\x9d52;c;cm0=\x9c".encode(),
    "title": b"\x1b]0;your bank\x07",
    "link": b"\x1b]8;;http://evil.test\x1b\\",
    "device control": b"\x1bPq#0;2;0;0;0\x1b\\",
    "application command": b"\x1b_Gf=24;AAAA\x1b\\",
    "privacy message": b"\x1b^secret\x1b\\",
    "start of string": b"\x1bXsecret\x1b\\",
    "erase display": b"\x1b[2J\x1b[3J",
    "cursor home": b"\x1b[H\x1b[10;10H",
    "cursor down, right, left": b"\x1b[5B\x1b[5C\x1b[5D",
    "alternate screen": b"\x1b[?1049h",
    "bracketed paste": b"\x1b[?2004h",
    "mouse": b"\x1b[?1000h\x1b[?1006h",
    "keyboard": b"\x1b[>4;2m\x1b[=1u",
    "report of position": b"\x1b[6n\x1b[c\x1b[>c",
    "report of title": b"\x1b[21t",
    "reset": b"\x1bc\x1b[!p",
    "character set": b"\x1b(0\x1b)0\x0e\x0f",
    "save and restore": b"\x1b7\x1b8\x1b[s\x1b[u",
    "8-bit CSI": "\x9b2J".encode(),
    "bell and friends": b"\x00\x05\x07\x0b\x0c\x7f\x18\x1a",
    "private erase": b"\x1b[?2K",
    "a sequence of endless parameters": b"\x1b[" + b"1;" * 5000 + b"m",
}


def filtered(*chunks: bytes) -> bytes:
    stream_filter = TerminalFilter()
    return b"".join([*map(stream_filter.feed, chunks), stream_filter.finish()])


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_sec_11_nothing_of_an_attack_reaches_the_terminal(attack: bytes) -> None:
    assert filtered(b"before " + attack + b" after\n") == b"before  after\n"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_sec_11_an_attack_in_single_bytes_fares_no_better(attack: bytes) -> None:
    chunks = [bytes([byte]) for byte in b"a" + attack + b"b"]

    assert filtered(*chunks) == b"ab"


@pytest.mark.parametrize(
    "passed",
    [
        b"plain\ttext\r\n",
        "Zähler: 模型 🙂\n".encode(),
        b" 10%|\xe2\x96\x88         |\r 20%|",
        b"ab\b\bxy",
        b"\x1b[31mred\x1b[0m \x1b[1;38;5;208mbold\x1b[m",
        b"\x1b[38:2::255:0:0mtrue colour\x1b[0m",
        b"\x1b[K\x1b[0K\x1b[1K\x1b[2K",
        b"\x1b[A\x1b[3A",
    ],
)
def test_sec_11_progress_bars_and_colours_pass(passed: bytes) -> None:
    assert filtered(passed) == passed


def test_sec_11_bytes_that_are_not_utf8_are_shown_as_such() -> None:
    assert filtered(b"\xff\x9b2J\x80") == "\ufffd\ufffd2J\ufffd".encode()


def test_sec_11_a_character_split_over_chunks_is_whole() -> None:
    assert filtered(b"\xe6\xa8", b"\xa1") == "模".encode()


def test_sec_11_an_unfinished_string_hides_one_line_at_most() -> None:
    assert filtered(b"\x1b]0;stray\nnext line\n") == b"\nnext line\n"


def test_sec_11_a_sequence_cut_off_by_another_does_not_hide_it() -> None:
    assert filtered(b"\x1b[3\x1b[31mred\x1b[0m") == b"\x1b[31mred\x1b[0m"
    assert filtered(b"\x1b]0;title\x1b[31mred\x1b[0m") == b"\x1b[31mred\x1b[0m"


def test_sec_11_colours_left_on_are_reset_at_the_end() -> None:
    assert filtered(b"\x1b[8mhidden") == b"\x1b[8mhidden\x1b[0m"
    assert filtered(b"\x1b[8mhidden\x1b[0m") == b"\x1b[8mhidden\x1b[0m"


def test_sec_11_ten_megabytes_without_a_newline_come_through() -> None:
    line = b"x" * (10 << 20)
    chunks = [line[start : start + 65_536] for start in range(0, len(line), 65_536)]

    assert filtered(*chunks) == line


pieces = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([*ATTACKS.values()]).filter(lambda attack: len(attack) < 100),
    st.sampled_from([b"\x1b", b"\x1b[", b"\x1b]", b"\x9b", b"\xc2", b"\n", b"\x1b[31m", b"ok"]),
)
streams = st.lists(pieces, max_size=12).map(b"".join)


@given(streams)
def test_sec_11_any_bytes_leave_only_harmless_sequences(data: bytes) -> None:
    left = HARMLESS.sub(b"", filtered(data))

    assert not CONTROLS.search(left)
    left.decode("utf-8")


@given(streams, st.lists(st.integers(0, 120), max_size=10))
def test_sec_11_any_division_into_chunks_gives_the_same(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(places)]

    assert filtered(*chunks) == filtered(data)


@given(streams)
def test_sec_11_what_was_filtered_is_not_changed_by_filtering_again(data: bytes) -> None:
    once = filtered(data)

    assert filtered(once) == once


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_sec_11_text_that_runyard_shows_itself_holds_no_control(text: str) -> None:
    shown = clean(text)

    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert "\n" not in clean_line(text)
    shown.encode("utf-8")
