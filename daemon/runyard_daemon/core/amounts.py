"""Amounts of resources and time as people read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from runyard_daemon.core.room import Constraint, Obstacle
from runyard_daemon.core.types import Node, Resources

_BYTE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


@dataclass(frozen=True, slots=True)
class Dimension:
    """One kind of resource: where it is kept, what it is called, how it is asked for."""

    constraint: Constraint
    option: str
    """Of `runyard run`."""
    amount: Callable[[Resources], int]
    with_amount: Callable[[Resources, int], Resources]
    """The same resources with another amount of this one."""
    value: Callable[[int], str]
    """An amount as the option takes it."""
    text: Callable[[int], str]
    """An amount in a sentence."""


def bytes_text(size_bytes: int) -> str:
    """Gives a size such as "24 GiB" or "1.5 GiB"; rounded down, so that it can be asked for."""
    for unit_bytes, unit in _BYTE_UNITS:
        if size_bytes >= unit_bytes:
            tenths = size_bytes * 10 // unit_bytes
            return f"{tenths // 10}{f'.{tenths % 10}' if tenths % 10 else ''} {unit}"
    return "0 B"


def duration_text(duration_s: float) -> str:
    """Gives a duration such as "40 s", "3 min", "5 h" or "12 days"; negative ones are 0 s."""
    for unit_s, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if duration_s >= 2 * unit_s:
            return f"{int(duration_s // unit_s)} {unit}"
    return f"{int(max(0.0, duration_s))} s"


def obstacle_text(obstacle: Obstacle, node: Node, age_s: float | None) -> str:
    """Gives the clause that says what a node does not meet.

    `age_s` is how long the node has not been connected or accepting, None where it is not known.
    """
    since = f" for {duration_text(age_s)}" if age_s is not None else ""
    why = f" ({node.reason})" if node.reason else ""
    if obstacle.constraint is Constraint.CONNECTED:
        return f"not connected{since}{why}"
    if obstacle.constraint is Constraint.ACCEPTING:
        return f"takes no runs{since}{why}"
    if obstacle.constraint is Constraint.SLOTS:
        if obstacle.total < 1:
            return "has no slots"
        return (
            "its only slot is busy" if obstacle.total == 1 else f"all {obstacle.total} slots busy"
        )
    dimension = next(d for d in DIMENSIONS if d.constraint is obstacle.constraint)
    against = obstacle.total if obstacle.is_lasting else obstacle.free
    text = _text_apart(dimension, obstacle.need, against)
    needs = f"needs {text(obstacle.need)}, {node.name} has {text(obstacle.total)}"
    return needs if obstacle.is_lasting else f"{needs}, {text(obstacle.free)} free"


def texts_apart(dimension: Dimension, need: int, has: int) -> tuple[str, str]:
    """Gives two different amounts in words that differ, too."""
    text = _text_apart(dimension, need, has)
    return text(need), text(has)


def _text_apart(dimension: Dimension, need: int, has: int) -> Callable[[int], str]:
    """Only memory is ever rounded."""
    return _exact_bytes if dimension.text(need) == dimension.text(has) else dimension.text


def _exact_bytes(size_bytes: int) -> str:
    return f"{size_bytes:,} bytes"


def _cpus(millis: int) -> str:
    return f"{millis / 1000:g}"


def _counted(noun: str, number: Callable[[int], str]) -> Callable[[int], str]:
    return lambda amount: f"{number(amount)} {noun}{'' if number(amount) == '1' else 's'}"


DIMENSIONS: tuple[Dimension, ...] = (
    Dimension(
        Constraint.GPUS,
        "--gpus",
        lambda r: r.gpus,
        lambda r, amount: replace(r, gpus=amount),
        str,
        _counted("GPU", str),
    ),
    Dimension(
        Constraint.MEMORY,
        "--memory",
        lambda r: r.memory_bytes,
        lambda r, amount: replace(r, memory_bytes=amount),
        lambda size: bytes_text(size).replace(" ", ""),
        lambda size: f"{bytes_text(size)} of memory",
    ),
    Dimension(
        Constraint.CPUS,
        "--cpus",
        lambda r: r.cpu_millis,
        lambda r, amount: replace(r, cpu_millis=amount),
        _cpus,
        _counted("CPU", _cpus),
    ),
)
"""The scarcest first."""
