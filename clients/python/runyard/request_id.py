"""Request ids: what makes a call that is repeated the same call."""

from __future__ import annotations

import os

_VERSION_AND_VARIANT_MASK = ~((0xF << 76) | (0x3 << 62))
_VERSION_4 = 0x4 << 76
_VARIANT_RFC_9562 = 0x2 << 62


def new_request_id() -> str:
    """A random UUID (version 4) as text.

    `uuid.uuid4()` gives the same; its module asks for the platform, 4 ms of each command's start.
    """
    number = int.from_bytes(os.urandom(16), "big")
    number = number & _VERSION_AND_VARIANT_MASK | _VERSION_4 | _VARIANT_RFC_9562
    text = f"{number:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
