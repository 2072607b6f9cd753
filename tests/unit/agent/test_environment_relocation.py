"""Files of environments without the folder that they were built in, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.environments.relocation import (
    PLACEHOLDER,
    SHEBANG_BYTES,
    NotRelocatable,
    check_prefix,
    put_in,
    take_out,
)
from runyard_contract.sealed import Placement

TEXT = Placement(PLACEHOLDER, "text")
LONG = b"/opt/placehold" + b"_placehold" * 20
BINARY = Placement(LONG, "binary")
PREFIX = b"/home/ann/environments/0123456789abcdef"

prefixes = st.integers(1, len(LONG) - 2).map(lambda length: b"/q" + b"w" * length)
noise = st.binary(max_size=40).filter(lambda data: b"/" not in data)


@st.composite
def texts(draw: st.DrawFn, held: bytes) -> bytes:
    """Bytes that hold a folder, anywhere in them."""
    return draw(noise) + b"".join(held + draw(noise) for _ in range(draw(st.integers(0, 4))))


@st.composite
def strings(draw: st.DrawFn) -> bytes:
    """A package's binary: C strings with its placeholder, or several in one, between others."""
    parts = [draw(noise), b"\0"]
    for _ in range(draw(st.integers(0, 4))):
        parts += [LONG + draw(noise).replace(b"\0", b""), b"\0" * draw(st.integers(0, 3))]
    return b"".join(parts) + draw(st.sampled_from([b"", b"\0", b"\0end"]))


@given(st.data(), prefixes)
def test_text_comes_back_as_it_was(data: st.DataObject, prefix: bytes) -> None:
    original = data.draw(texts(prefix))

    taken = take_out(original, prefix, TEXT)

    assert prefix not in taken
    assert put_in(taken, prefix, TEXT, fit_scripts=False) == original


@given(strings(), prefixes)
def test_binary_of_a_package_is_the_same_from_whatever_folder(package: bytes, here: bytes) -> None:
    installed = put_in(package, here, BINARY)

    assert len(installed) == len(package)
    assert take_out(installed, here, BINARY) == package


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=5), st.sampled_from([TEXT, BINARY]))
def test_any_bytes_come_back_or_are_refused(
    data: bytes, prefix: bytes, placement: Placement
) -> None:
    try:
        taken = take_out(data, prefix, placement)
    except NotRelocatable:
        return
    assert put_in(taken, prefix, placement, fit_scripts=False) == data


def test_text_that_names_the_placeholder_itself_is_refused() -> None:
    with pytest.raises(NotRelocatable, match="can't be told"):
        take_out(PLACEHOLDER + b" and " + PREFIX, PREFIX, TEXT)


def test_binary_without_room_for_a_longer_folder_is_refused() -> None:
    with pytest.raises(NotRelocatable, match=r"no room for a folder of 300 bytes"):
        put_in(b"\x7fELF" + LONG + b"/lib\0more", b"/" + b"x" * 299, BINARY)


def test_script_with_a_first_line_too_long_starts_through_sh() -> None:
    script = b"#!" + PLACEHOLDER + b"/bin/python -s\nimport sys\n"
    far = b"/" + b"d" * SHEBANG_BYTES

    placed = put_in(script, far, TEXT)

    assert placed.startswith(b"#!/bin/sh\n'''exec' \"" + far + b'/bin/python" -s "$0" "$@"\n')
    assert placed.endswith(b"\nimport sys\n")
    compile(placed, "script", "exec")


@pytest.mark.parametrize("script", [b"#!/bin/sh\n", b"#!" + PLACEHOLDER + b"/bin/python\nx = 1\n"])
def test_script_that_the_kernel_can_read_keeps_its_first_line(script: bytes) -> None:
    assert put_in(script, PREFIX, TEXT) == script.replace(PLACEHOLDER, PREFIX)


@pytest.mark.parametrize("prefix", [b"relative", b'/a"b', b"/a$b", b"/a\nb", "/é".encode(), b"/a/"])
def test_folder_that_scripts_cannot_name_is_refused(prefix: bytes) -> None:
    with pytest.raises(NotRelocatable, match="characters"):
        check_prefix(prefix)
