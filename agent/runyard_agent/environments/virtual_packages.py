"""What conda calls virtual packages: what a node has by its hardware and system.

Enough of it to see that a lock of another node may be installed here; where this can't tell, the
built-in solver, which knows all of it, decides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from runyard_agent.environments.libc import libc_version

_CLAUSE = re.compile(r"(?P<operator>>=|<=|==|>|<)?(?P<version>\d+(?:\.\d+)*)(?:\.(?:a0|\*))?")


def present() -> dict[str, str]:
    """Those of this node that are certain, with their versions; "" for one without a version."""
    found = {"__unix": "", "__linux": os.uname().release}
    if version := libc_version():
        found["__glibc"] = version
    return found


def unmet(needs: Sequence[str], has: Mapping[str, str] | None = None) -> list[str]:
    """The match specs of virtual packages that a node does not certainly fit.

    Args:
        needs: such as "__glibc >=2.17,<3.0.a0".
        has: versions by name. Default: those of this node.
    """
    has = present() if has is None else has
    return [need for need in needs if not _fits(need, has)]


def _fits(need: str, has: Mapping[str, str]) -> bool:
    name, _, conditions = need.strip().partition(" ")
    if name not in has:
        return False
    clauses = [one.strip() for one in conditions.split(",") if one.strip() not in ("", "*")]
    return all(_holds(clause, _numbers(has[name])) for clause in clauses)


def _holds(clause: str, version: tuple[int, ...]) -> bool:
    found = _CLAUSE.fullmatch(clause)
    if found is None or not version:
        return False
    wanted = _numbers(found["version"])
    if found["operator"] is None:
        return version[: len(wanted)] == wanted
    digits = max(len(wanted), len(version))
    a, b = (one + (0,) * (digits - len(one)) for one in (version, wanted))
    return {">=": a >= b, "<=": a <= b, "==": a == b, ">": a > b, "<": a < b}[found["operator"]]


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
