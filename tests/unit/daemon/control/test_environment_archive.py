"""Files of environments that are damaged: refused, or the very same as before."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.errors import SealedInvalid
from runyard_daemon.control.archive import ArchiveReader, ArchiveWriter
from runyard_daemon.control.environment_file import ENVIRONMENT

MEMBERS = {
    "spec": b"specification",
    f"locks/{'a' * 64}": b"six==1.16.0",
    f"blobs/{'b' * 64}": b"content" * 50,
}


def archive(members: dict[str, bytes]) -> bytes:
    writer = ArchiveWriter()
    pieces = list(writer.add_note(ENVIRONMENT.head, {"format": 1}))
    for name, data in members.items():
        pieces += writer.add(name, len(data), [data])
    return b"".join([*pieces, *writer.finish()])


def read(data: bytes) -> dict[str, bytes]:
    reader = ArchiveReader(io.BytesIO(data), ENVIRONMENT)
    return {member.name: member.read(1 << 20) for member in reader.members()}


GOOD = archive(MEMBERS)


def test_whole_file_is_read() -> None:
    assert read(GOOD) == MEMBERS


@given(st.binary(max_size=2000))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(SealedInvalid):
        read(data)


@given(st.integers(0, len(GOOD) - 1))
def test_file_that_is_cut_off_anywhere_is_refused_or_lacks_nothing(length: int) -> None:
    try:
        found = read(GOOD[:length])
    except SealedInvalid:
        return
    assert found == MEMBERS  # only what comes behind the digest is gone


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1))
def test_file_with_other_bytes_is_refused_or_the_same(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        found = read(bytes(data))
    except SealedInvalid:
        return
    assert found == MEMBERS


@pytest.mark.parametrize(
    "name",
    [
        "../spec",
        "/spec",
        "blobs/../x",
        f"blobs/{'B' * 64}",
        "runs/a/b/c/d",
        "locks/x",
        "runyard.db",
    ],
)
def test_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(SealedInvalid):
        read(archive({name: b"x"}))
