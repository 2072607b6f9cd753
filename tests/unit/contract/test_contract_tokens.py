from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.errors import SpecInvalid
from runyard_contract.tokens import ID_CHARACTERS, KINDS, SECRET_BYTES, make_token, read_token

_BYTES = ID_CHARACTERS + SECRET_BYTES
random_bytes = st.binary(min_size=_BYTES, max_size=_BYTES)


@given(kind=st.sampled_from(KINDS), random=random_bytes)
def test_token_is_read_as_it_was_made(kind: str, random: bytes) -> None:
    token = make_token(kind, random)
    again = read_token(token.text)

    assert (again.kind, again.id, again.hash) == (kind, token.id, token.hash)
    assert token.text not in repr(token)


@given(random=random_bytes, place=st.integers(0), letter=st.sampled_from("0aZ_ \n\u00e9"))
def test_changed_token_is_refused_and_not_repeated(random: bytes, place: int, letter: str) -> None:
    text = make_token("usr", random).text
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed == text:
        return

    with pytest.raises(SpecInvalid) as caught:
        read_token(changed)
    assert changed not in str(caught.value)


@given(random=random_bytes, length=st.integers(0))
def test_cut_token_is_refused(random: bytes, length: int) -> None:
    text = make_token("join", random).text

    with pytest.raises(SpecInvalid):
        read_token(text[: length % len(text)])


def test_other_secret_has_another_hash() -> None:
    first = make_token("adm", bytes(ID_CHARACTERS + SECRET_BYTES))
    second = make_token("adm", bytes(ID_CHARACTERS + SECRET_BYTES - 1) + b"\1")

    assert first.id == second.id
    assert first.hash != second.hash
