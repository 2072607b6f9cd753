"""Page tokens: where a listing goes on, sealed so that nobody can steer a query with one.

A token is base64url(version, hash of the listing, keyset, HMAC). The keyset is the sort key of the
last row given, so a page costs the same at any depth and new rows shift nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runyard_contract.errors import PageTokenMismatch, SpecInvalid
from runyard_contract.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

_VERSION = b"\x01"
_HASH_BYTES = 16

T = TypeVar("T")
Key = tuple[int | str, ...]


class PagedRequest(Protocol):
    """A request for a page, as every list method has it."""

    page_size: int
    page_token: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """As protobuf has it."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """What a request asks for: `size` rows behind `after` (None: from the start)."""

    size: int
    after: Key | None
    listing: bytes
    """Hash of everything in the request but size and token: all pages must agree in it."""


class Pager:
    """Reads and makes page tokens with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def read(self, request: PagedRequest) -> Page:
        """What a request asks for. Raises PageTokenMismatch, or SpecInvalid for a negative size."""
        if request.page_size < 0:
            raise SpecInvalid(violations=[("page_size", f"{request.page_size} is negative")])
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        listing = _listing(request)
        if not request.page_token:
            return Page(size, None, listing)
        return Page(size, self._open(request.page_token, listing), listing)

    def token(self, page: Page, key: Key) -> str:
        """The token of the page that begins behind the row with this key."""
        body = _VERSION + page.listing + json.dumps(key, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(body + self._seal(body)).decode("ascii").rstrip("=")

    def cut(self, page: Page, rows: Sequence[T], keys: Sequence[Key]) -> tuple[list[T], str]:
        """The rows of the page and the token of the next.

        Args:
            rows: up to `page.size + 1`: the one too many says that there is a next page.
            keys: the sort key of each row.
        """
        if len(rows) <= page.size:
            return list(rows), ""
        return list(rows[: page.size]), self.token(page, keys[page.size - 1])

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:_HASH_BYTES]

    def _open(self, token: str, listing: bytes) -> Key:
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        body, seal = raw[:-_HASH_BYTES], raw[-_HASH_BYTES:]
        start = len(_VERSION) + _HASH_BYTES
        is_ours = len(body) > start and hmac.compare_digest(seal, self._seal(body))
        if not is_ours or body[:start] != _VERSION + listing:
            raise PageTokenMismatch(
                "the page token belongs to another listing or was changed",
                hint="start the listing again without a page token",
            )
        return tuple(json.loads(body[start:]))


def _listing(request: PagedRequest) -> bytes:
    """Hash of a request without its page: its type and all other fields."""
    plain = type(request)()
    plain.CopyFrom(request)  # type: ignore[attr-defined]  # every message has it
    plain.page_size = 0
    plain.page_token = ""
    hasher = hashlib.blake2b(type(request).__name__.encode(), digest_size=_HASH_BYTES)
    hasher.update(plain.SerializeToString(deterministic=True))
    return hasher.digest()
