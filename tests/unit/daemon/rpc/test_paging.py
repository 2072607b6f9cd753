from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.errors import PageTokenMismatch, SpecInvalid
from runyard_daemon.rpc.paging import Pager
from runyardpb.v1 import runs_pb2

PAGER = Pager(b"secret")
KEYS = st.tuples(st.one_of(st.integers(), st.text()))


def request(**fields: object) -> runs_pb2.ListRunsRequest:
    return runs_pb2.ListRunsRequest(**{"parent": "p", **fields})


@given(key=KEYS)
def test_a_token_gives_back_its_key(key: tuple[int | str]) -> None:
    page = PAGER.read(request())

    again = PAGER.read(request(page_token=PAGER.token(page, key)))

    assert again.after == key


@given(key=KEYS, position=st.integers(0), bit=st.integers(0, 5))
def test_a_token_with_any_character_changed_is_refused(
    key: tuple[int | str], position: int, bit: int
) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = PAGER.token(PAGER.read(request()), key)
    # The last character may hold bits that mean nothing.
    index = position % (len(token) - 1)
    other = alphabet[alphabet.index(token[index]) ^ (1 << bit)]

    with pytest.raises(PageTokenMismatch):
        PAGER.read(request(page_token=token[:index] + other + token[index + 1 :]))


@given(token=st.text(max_size=200))
def test_what_is_no_token_is_refused(token: str) -> None:
    if token:
        with pytest.raises(PageTokenMismatch):
            PAGER.read(request(page_token=token.encode("utf-8", "replace").decode()))


def test_a_token_of_another_secret_or_listing_is_refused() -> None:
    token = PAGER.token(PAGER.read(request()), (1,))

    for pager, other in (
        (Pager(b"other"), request(page_token=token)),
        (PAGER, request(page_token=token, parent="q")),
        (PAGER, request(page_token=token, tags={"a": ""})),
    ):
        with pytest.raises(PageTokenMismatch):
            pager.read(other)


def test_sizes_are_bounded_and_the_last_page_has_no_token() -> None:
    assert PAGER.read(request()).size == 50
    assert PAGER.read(request(page_size=5000)).size == 1000
    with pytest.raises(SpecInvalid):
        PAGER.read(request(page_size=-1))

    page = PAGER.read(request(page_size=2))
    assert PAGER.cut(page, ["a", "b"], [(1,), (2,)]) == (["a", "b"], "")
    shown, token = PAGER.cut(page, ["a", "b", "c"], [(1,), (2,), (3,)])
    assert shown == ["a", "b"]
    assert PAGER.read(request(page_size=2, page_token=token)).after == (2,)
