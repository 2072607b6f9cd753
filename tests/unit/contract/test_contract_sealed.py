"""Descriptions of sealed environments: what comes back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.errors import SealedInvalid
from runyard_contract.sealed import (
    Placement,
    Sealed,
    SealedFile,
    SealedLink,
    decode_sealed,
    digests_of,
    encode_sealed,
    relative_target,
)

A, B = "a" * 64, "b" * 64
SEALED = Sealed(
    kind="conda",
    lock_hash=A,
    platform="linux-64",
    python="3.11.7",
    packages=2,
    libc="",
    runyard="1.0",
    files=(
        SealedFile("bin/run", A, 7, True, Placement(b"/prefix", "text")),
        SealedFile("lib/python3.11/x.py", B, 0),
        SealedFile("share/terminfo/E/eterm:x", B, 0),
        SealedFile("share/terminfo/e/\udcff", B, 0, False, Placement(b"/q\xff", "binary")),
    ),
    links=(SealedLink("lib64", "lib"), SealedLink("share/lib", "../lib/python3.11")),
)


def of(*files: SealedFile | str, links: tuple[tuple[str, str], ...] = ()) -> Sealed:
    found = tuple(SealedFile(one, B, 0) if isinstance(one, str) else one for one in files)
    return replace(SEALED, files=found, links=tuple(SealedLink(*pair) for pair in links))


def test_description_comes_back_as_it_was_and_is_the_same_in_any_order() -> None:
    data = encode_sealed(SEALED)

    assert decode_sealed(data) == SEALED
    assert encode_sealed(replace(SEALED, files=SEALED.files[::-1])) == data


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a/", "a\0b"),
        *("x" * 256, "/".join("x" * 200 for _ in range(30)), "/".join("x" * 300)),
    ],
)
def test_path_that_leads_out_or_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(SealedInvalid, match="leads out of it or can't be"):
        encode_sealed(of(path))
    with pytest.raises(SealedInvalid):
        encode_sealed(of(links=((path, "lib"),)))


@pytest.mark.parametrize(
    "target", ["", "/usr/bin/python", "../..", "../../x", "a/../../..", "x/..", "a\0"]
)
def test_link_that_leads_out_is_refused(target: str) -> None:
    with pytest.raises(SealedInvalid, match="leads out"):
        encode_sealed(of(links=(("bin/python", target),)))


@pytest.mark.parametrize(
    "sealed",
    [
        of("bin/x", links=(("bin", "lib"),)),
        of("bin", "bin/x"),
        of(links=(("a", "b"), ("a/c", "b"))),
        of("a", links=(("a", "b"),)),
        of("a", "a"),
    ],
)
def test_path_through_a_link_or_a_file_and_path_that_comes_twice_are_refused(
    sealed: Sealed,
) -> None:
    with pytest.raises(SealedInvalid):
        encode_sealed(sealed)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"lock_hash": "zz"},
        {"python": None},
        {"packages": -1},
        {"packages": True},
        {"files": {}},
        {"files": [["x", B, 0, 0]]},
        {"files": [["x", B, 0, False, "text"]]},
        {"files": [["x", B, 0, False, "text", ""]]},
        {"files": [["x", B, 0, False, "code", "/p"]]},
        {"files": [["x", "b", 0, False]]},
        {"files": [["x", B, -1, False]]},
        {"files": [["x", B, 1 << 50, False]]},
        {"files": [["x\ud800", B, 0, False]]},
        {"links": [["x"]]},
        {"more": 1},
    ],
)
def test_description_with_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(encode_sealed(SEALED)) | change

    with pytest.raises(SealedInvalid):
        decode_sealed(json.dumps(document).encode())


@given(st.binary(max_size=60) | st.lists(st.none() | st.text()).map(repr).map(str.encode))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(SealedInvalid):
        decode_sealed(data)


@given(st.data())
def test_damaged_description_is_refused_or_still_safe(data: st.DataObject) -> None:
    good = bytearray(encode_sealed(SEALED))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_sealed(bytes(good))
    except SealedInvalid:
        return
    assert all(".." not in file.path.split("/") for file in found.files)


def test_content_with_two_sizes_is_refused() -> None:
    with pytest.raises(SealedInvalid):
        digests_of([SealedFile("a", A, 1), SealedFile("b", A, 2)])


@pytest.mark.parametrize(
    ("path", "target", "said"),
    [
        ("bin/python", "bin/python3", "python3"),
        ("lib64", "lib", "lib"),
        ("a/b/c", "x/y", "../../x/y"),
        ("a/b/c", "a/y", "../y"),
        ("a/b/c", "a/b", "../b"),
    ],
)
def test_relative_target(path: str, target: str, said: str) -> None:
    assert relative_target(path, target) == said
