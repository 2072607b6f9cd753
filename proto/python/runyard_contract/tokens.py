"""Tokens as text: `ry_<kind>_<id>_<secret>_<check>`.

The kind tells people and secret scanners what a token may do; what it really may is what the daemon
keeps under its id. The check (CRC-32) finds a token that was cut or mistyped before anybody is
asked. Of a token the daemon keeps a hash: its secret has 256 random bits, which no slow hash helps.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Final

from runyard_contract.errors import SpecInvalid

KINDS: Final = ("adm", "usr", "ro", "join")
"""Of administrators, contributors, readers, and of agents that are to join."""
ID_CHARACTERS: Final = 8
SECRET_BYTES: Final = 32
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARACTERS: Final = 43
_CHECK_CHARACTERS: Final = 6
_FORM: Final = re.compile(
    rf"ry_(?P<kind>{'|'.join(KINDS)})_(?P<id>[0-9a-z]{{{ID_CHARACTERS}}})"
    rf"_(?P<secret>[0-9A-Za-z]{{{_SECRET_CHARACTERS}}})_(?P<check>[0-9A-Za-z]{{{_CHECK_CHARACTERS}}})"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token. `text` is secret: it is shown once, to the person who asked for it."""

    kind: str
    id: str
    text: str

    def __repr__(self) -> str:
        return f"Token({self.kind!r}, {self.id!r})"

    @property
    def hash(self) -> bytes:
        """What the daemon keeps of it: SHA-256 of the text."""
        return hashlib.sha256(self.text.encode("ascii")).digest()


def make_token(kind: str, random: bytes) -> Token:
    """A new token.

    Args:
        kind: one of KINDS.
        random: ID_CHARACTERS + SECRET_BYTES bytes from the system's source of randomness.

    Raises ValueError for another kind or length.
    """
    if kind not in KINDS or len(random) != ID_CHARACTERS + SECRET_BYTES:
        raise ValueError(f"no token of kind {kind!r} is made of {len(random)} bytes")
    # 36 of 256 don't go in evenly; the id is no secret, only to be unlike others.
    token_id = "".join(_DIGITS[byte % 36].lower() for byte in random[:ID_CHARACTERS])
    secret = _base62(int.from_bytes(random[ID_CHARACTERS:], "big"), _SECRET_CHARACTERS)
    body = f"ry_{kind}_{token_id}_{secret}"
    return Token(kind, token_id, f"{body}_{_check(body)}")


def read_token(text: str) -> Token:
    """The token that a text is. Raises SpecInvalid, which does not repeat the text."""
    found = _FORM.fullmatch(text)
    if found is None or _check(text.rpartition("_")[0]) != found["check"]:
        raise SpecInvalid(
            "this is no token of runyard, or a part of it is missing",
            hint="copy it whole: it begins with ry_ and has four more parts, with _ between",
        )
    return Token(found["kind"], found["id"], text)


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_CHARACTERS)


def _base62(number: int, characters: int) -> str:
    """A number in digits, upper and lower letters, with zeros before."""
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
