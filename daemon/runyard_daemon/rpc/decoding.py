"""Requests from bytes: what is no message, or too large a one, is an error to act on.

gRPC would answer a request that can't be read with the text of an internal exception.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from runyard_contract.errors import MessageTooLarge, RunyardError, SpecInvalid
from runyard_contract.limits import MESSAGE_BYTES, RUN_REQUEST_BYTES

_RUNS = "/runyardpb.v1.RunService/"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in for a request that is none."""

    error: RunyardError


def decoder(method: str, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Gives a decoder for a method's requests that never raises; see `readable`."""
    limit_bytes = RUN_REQUEST_BYTES if method.startswith(_RUNS) else MESSAGE_BYTES

    def decoded(data: bytes) -> Any:
        if len(data) > limit_bytes:
            return Unreadable(_too_large(len(data), limit_bytes))
        try:
            return decode(data)
        except DecodeError:
            return Unreadable(
                SpecInvalid(
                    "the request can't be read as a message of the contract",
                    hint="encode it with the .proto files of the daemon's version, text as UTF-8",
                    size_bytes=str(len(data)),
                )
            )

    return decoded


def readable(request: Any) -> Any:
    """Gives the request. Raises what is wrong with one that could not be read."""
    if isinstance(request, Unreadable):
        raise request.error
    return request


def _too_large(size_bytes: int, limit_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"a request of {size_bytes} bytes is over the limit of {limit_bytes}",
        hint="send less in one request",
        size_bytes=str(size_bytes),
        limit_bytes=str(limit_bytes),
    )
