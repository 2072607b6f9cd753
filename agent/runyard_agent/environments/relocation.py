"""Files of built environments without the folder that they were built in, and back. Pure.

A file holds its environment's folder as text, or, in a binary of a conda package, in C strings that
the package left room in. Without it a file is the same from whatever node it comes.
"""

from __future__ import annotations

import os
import re

from runyard_contract.paths import shown
from runyard_contract.sealed import Placement

PLACEHOLDER = b"/runyard-sealed-environment/prefix"
"""Stands for the folder where no conda package has a placeholder of its own.

No end of it is also a beginning of it, so that putting it in makes no other place that looks alike.
"""
SHEBANG_BYTES = 127
"""Longer first lines of scripts are cut off by some kernels."""
_PLAIN = re.compile(rb"/[\w/.,+@:=~ -]+", re.ASCII)
_PYTHON = re.compile(rb"#! ?(?P<program>/[^\n]*?/python[\w.]*)(?P<options>(?: -\S+)*)[ \t]*\n")


class NotRelocatable(Exception):
    """A file can't be brought from or to another folder. `why` says so, for people."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def check_prefix(prefix: bytes) -> None:
    """Raises NotRelocatable for a folder that scripts and JSON can't name as it is."""
    if not _PLAIN.fullmatch(prefix) or prefix.endswith(b"/"):
        folder = shown(os.fsdecode(prefix))
        raise NotRelocatable(f"scripts can't name the folder {folder} as it is: odd characters")


def take_out(data: bytes, prefix: bytes, placement: Placement) -> bytes:
    """A file's bytes without the folder `prefix`; `put_in` gives exactly `data` back.

    Raises NotRelocatable where it would not.
    """
    if placement.mode == "text":
        taken = data.replace(prefix, placement.placeholder)
    else:
        taken = _replaced_in_strings(data, prefix, placement.placeholder)
    if put_in(taken, prefix, placement, fit_scripts=False) != data:
        raise NotRelocatable("holds its folder in a form that can't be told from other bytes")
    return taken


def put_in(data: bytes, prefix: bytes, placement: Placement, *, fit_scripts: bool = True) -> bytes:
    """A file's bytes in the folder `prefix`.

    Args:
        fit_scripts: rewrite the first line of a Python script where the kernel could not read it.

    Raises NotRelocatable where a binary has no room for the folder.
    """
    if placement.mode == "binary":
        return _replaced_in_strings(data, placement.placeholder, prefix)
    placed = data.replace(placement.placeholder, prefix)
    return _with_readable_shebang(placed) if fit_scripts else placed


def _replaced_in_strings(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replaces in C strings; the NULs after each take up the difference, as conda does it."""
    parts = []
    done = 0
    while (found := data.find(old, done)) >= 0:
        end = data.find(b"\0", found + len(old))
        end = len(data) if end < 0 else end
        string = data[found:end].replace(old, new)
        spare = (end - found) - len(string)
        after = end
        if spare < 0:
            after = _after_nuls(data, end, -spare, old, new)
        parts += [data[done:found], string, b"\0" * max(0, spare)]
        done = after
    return b"".join([*parts, data[done:]])


def _after_nuls(data: bytes, end: int, needed: int, old: bytes, new: bytes) -> int:
    """Where a string's file goes on, when it has grown over `needed` of its NULs."""
    after = end + needed
    if data[end:after] != b"\0" * needed or (after < len(data) and data[after] != 0):
        raise NotRelocatable(
            f"has no room for a folder of {len(new)} bytes in place of one of {len(old)}"
        )
    return after


def _with_readable_shebang(data: bytes) -> bytes:
    """A Python script whose first line is too long, or has a space, starts through sh instead."""
    first = _PYTHON.match(data)
    if first is None:
        return data
    program, options = first["program"], first["options"]
    if len(first[0]) <= SHEBANG_BYTES and b" " not in program:
        return data
    through = b"#!/bin/sh\n'''exec' \"%s\"%s \"$0\" \"$@\"\n' '''\n" % (program, options)
    return through + data[first.end() :]
