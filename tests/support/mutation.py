"""Hostile inputs by chance: bytes changed a little, messages with values that nobody sends."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NUMBERS = (0, 1, 2, -1, 7, 255, 4096, 65536, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
TEXTS = (
    "",
    "-",
    "/",
    "..",
    "a" * 300,
    "x\n\x1b[31m",
    "\u202ename",
    "workspaces/",
    "\0",
    "0",
    "%2e",
)
DEPTH = 3
_WIDE = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_UNSIGNED = frozenset({FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64})
_WHOLE = _WIDE | _UNSIGNED | {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM}


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Changes some bytes: flips, cuts, doubles, swaps in pieces of others or telling numbers."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randint(0, len(content))
        end = min(len(content), at + chance.choice((1, 2, 4, 8, 64)))
        match chance.randrange(6):
            case 0 if content:
                content[min(at, len(content) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del content[at:end]
            case 2:
                content[at:at] = content[at:end]
            case 3:
                other = chance.choice(others)
                start = chance.randint(0, len(other))
                content[at:end] = other[start : start + chance.choice((1, 4, 32))]
            case 4:
                number = chance.choice(NUMBERS) & ((1 << 64) - 1)
                content[at:end] = number.to_bytes(8, chance.choice(("little", "big")))[: end - at]
            case _:
                content[at:at] = chance.randbytes(chance.choice((1, 3, 16)))
    return bytes(content)


def distorted(message: Message, chance: random.Random, depth: int = DEPTH) -> None:
    """Replaces some of a message's fields, in place, by values that its type allows."""
    for field in message.DESCRIPTOR.fields:
        fate = chance.random()
        if fate < 0.7:
            continue
        value = getattr(message, field.name)
        if fate < 0.75:
            message.ClearField(field.name)
        elif hasattr(value, "extend"):
            _distort_repeated(value, field, chance, depth)
        elif isinstance(value, Message):
            if depth:
                value.SetInParent()
                distorted(value, chance, depth - 1)
        elif not hasattr(value, "keys"):  # maps are left alone
            setattr(message, field.name, _value(field, chance))


def _distort_repeated(
    values: Any, field: FieldDescriptor, chance: random.Random, depth: int
) -> None:
    if field.message_type is None:
        values.extend(_value(field, chance) for _ in range(chance.choice((1, 2, 50))))
    elif depth:
        for _ in range(chance.choice((1, 2, 5))):
            distorted(values.add(), chance, depth - 1)


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.cpp_type in _WHOLE:
        bits = 64 if field.cpp_type in _WIDE else 32
        number = chance.choice((*NUMBERS, chance.randrange(1 << 20))) & ((1 << bits) - 1)
        is_negative = field.cpp_type not in _UNSIGNED and number >> (bits - 1)
        return number - (1 << bits) if is_negative else number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 16, 4096)))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(TEXTS)
        case _:
            return chance.choice((0.0, -1.0, 1e300, float("inf"), float("nan")))
