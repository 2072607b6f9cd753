"""Text that came from elsewhere, made safe to show on a terminal."""

from __future__ import annotations

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    r"""The text with control characters and undecodable bytes as escapes (`\x1b`).

    Newlines and tabs stay: messages may have several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    decoded = text.encode("utf-8", "surrogateescape" if _stands_for_bytes(text) else "replace")
    return "".join(map(_shown, decoded.decode("utf-8", "backslashreplace")))


def clean_line(text: str) -> str:
    """As `clean`, on one line."""
    return clean(" ".join(text.split()) if "\n" in text or "\t" in text else text)


def _stands_for_bytes(text: str) -> bool:
    """Whether all lone surrogates in the text are undecodable bytes (PEP 383)."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _shown(character: str) -> str:
    if character in "\n\t" or (character.isprintable() and character not in _REORDERING):
        return character
    return character.encode("unicode_escape").decode()
