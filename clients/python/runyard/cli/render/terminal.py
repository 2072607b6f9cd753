"""Keeps what a script prints from taking over the terminal that shows it.

Text, CR, LF, TAB, BS, colours (SGR), erase-line and cursor-up pass. Every other control character
and escape sequence is dropped: titles, clipboard writes, links, modes, cursor jumps, resets.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

# A run of characters that may be shown: no C0 control but BS, TAB, LF, CR; no DEL; no C1 control.
_SHOWN = re.compile("[^\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_CSI_PARAMETERS = re.compile("[\x20-\x3f]+")
# A string ends at BEL, ST, CAN, SUB or ESC, and at LF: so stray bytes hide one line at most.
_STRING_TEXT = re.compile("[^\x07\n\x18\x1a\x1b\x9c]+")
_STRING_ENDS = "\x07\x18\x1a\x9c"
_STRING_STARTS = "P]X^_"  # after ESC: DCS, OSC, SOS, PM, APC
_C1_STRING_STARTS = "\x90\x9d\x98\x9e\x9f"
_COLOURS = re.compile("[0-9;:]*")
_ERASE_LINE = frozenset({"", "0", "1", "2"})
_NUMBER = re.compile("[0-9]*")
_MOST_PARAMETERS = 64  # characters; a longer sequence is dropped

_Step = Callable[[str, int], int]


class TerminalFilter:
    """Filters the bytes of one stream; any division into chunks gives the same output.

    What is not UTF-8 comes out as U+FFFD, because a terminal may read such bytes as controls.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._step: _Step = self._ground
        self._parameters = ""
        self._out: list[str] = []
        self._is_styled = False

    def feed(self, data: bytes) -> bytes:
        """What may be shown of the bytes that follow."""
        return self._filtered(self._decoder.decode(data))

    def finish(self) -> bytes:
        """What is left at the end; resets colours that were left on."""
        rest = self._filtered(self._decoder.decode(b"", final=True))
        is_styled, self._is_styled = self._is_styled, False
        return rest + (b"\x1b[0m" if is_styled else b"")

    def _filtered(self, text: str) -> bytes:
        position, end = 0, len(text)
        while position < end:
            position = self._step(text, position)
        shown = "".join(self._out)
        self._out.clear()
        return shown.encode("utf-8")

    def _ground(self, text: str, position: int) -> int:
        """Outside of any sequence."""
        run = _SHOWN.match(text, position)
        if run is not None:
            self._out.append(run.group())
            return run.end()
        character = text[position]
        if character == "\x1b":
            self._step = self._escape
        elif character == "\x9b":
            self._begin_csi()
        elif character in _C1_STRING_STARTS:
            self._step = self._string
        return position + 1

    def _escape(self, text: str, position: int) -> int:
        """After ESC and any intermediate characters."""
        character = text[position]
        if "\x20" <= character <= "\x2f":
            self._step = self._intermediate
        elif character == "[":
            self._begin_csi()
        elif character in _STRING_STARTS:
            self._step = self._string
        elif "\x30" <= character <= "\x7e":
            self._step = self._ground  # a sequence of two characters, dropped
        else:
            self._step = self._ground
            return position  # a control or other text interrupts the sequence
        return position + 1

    def _intermediate(self, text: str, position: int) -> int:
        """After ESC and an intermediate character: one more character ends the sequence."""
        character = text[position]
        if "\x20" <= character <= "\x2f":
            return position + 1
        self._step = self._ground
        return position + 1 if "\x30" <= character <= "\x7e" else position

    def _begin_csi(self) -> None:
        self._parameters = ""
        self._step = self._csi

    def _csi(self, text: str, position: int) -> int:
        """In a control sequence, up to its final character."""
        run = _CSI_PARAMETERS.match(text, position)
        if run is not None:
            room = _MOST_PARAMETERS + 1 - len(self._parameters)
            self._parameters += run.group()[: max(room, 0)]
            return run.end()
        self._step = self._ground
        character = text[position]
        if not "\x40" <= character <= "\x7e":
            return position
        if self._may_pass(character):
            self._out.append(f"\x1b[{self._parameters}{character}")
        return position + 1

    def _may_pass(self, final: str) -> bool:
        """Whether the sequence with this final character is one of the few that are shown."""
        parameters = self._parameters
        if len(parameters) > _MOST_PARAMETERS:
            return False
        if final == "m" and _COLOURS.fullmatch(parameters):
            self._is_styled = parameters.strip("0;") != ""
            return True
        if final == "K":
            return parameters in _ERASE_LINE
        return final == "A" and _NUMBER.fullmatch(parameters) is not None

    def _string(self, text: str, position: int) -> int:
        """In a string (title, clipboard, link, …), up to its end."""
        run = _STRING_TEXT.match(text, position)
        if run is not None:
            return run.end()
        character = text[position]
        if character == "\x1b":
            self._step = self._string_escape
            return position + 1
        self._step = self._ground
        return position + 1 if character in _STRING_ENDS else position

    def _string_escape(self, text: str, position: int) -> int:
        """After an ESC in a string: `\\` ends it, anything else begins another sequence."""
        if text[position] == "\\":
            self._step = self._ground
            return position + 1
        self._step = self._escape
        return position
