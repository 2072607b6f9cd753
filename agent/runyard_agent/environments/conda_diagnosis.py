"""What rattler's faults mean: the package, channel or contradiction at fault, and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from runyard_agent.environments.diagnosis import MESSAGE_CHARACTERS, Fault
from runyard_contract.environment_spec import match_spec_name

REASONS_SHOWN = 4
_BRANCHES = re.compile("[\u2502\u251c\u2514\u2500]")
_REQUIRES = re.compile(
    r"^\W*(?P<release>\S[^\n]*?) would require\n\W*(?P<spec>[^\n,]+?)(?:,[^\n]*)?$", re.MULTILINE
)
_EXCLUDED = re.compile(r"^\W*(?P<spec>\S[^\n]*?) (?:can(?:not)? be installed)[^\n]*$", re.MULTILINE)
_CAPABILITIES = {
    "__cuda": "an NVIDIA driver for CUDA",
    "__glibc": "the C library glibc",
    "__archspec": "a processor",
    "__linux": "a Linux kernel",
}


def explain(fault: Mapping[str, Any]) -> Fault:
    """The fault that `rattler_program` tells of, with what it was asked for."""
    return _KINDS[fault["kind"]](fault)


def _unreachable(fault: Mapping[str, Any]) -> Fault:
    channels = ", ".join(fault["channels"])
    cause = fault["said"].strip().rpartition("Caused by: ")[2]
    return Fault(
        f"the conda channel {channels} can't be read: {_in_one_line(cause)}",
        "check its name and the node's network and proxy; a local channel is named as file:///…"
        " and has folders such as noarch and linux-64 with a repodata.json in each",
        {"channel": channels},
    )


def _unreadable(fault: Mapping[str, Any]) -> Fault:
    return Fault(
        f"conda can't read what is asked for: {_in_one_line(fault['said'])}",
        "write packages as name, name=1.2 or name>=1.2,<2, and channels as a name or URL",
    )


def _unsolvable(fault: Mapping[str, Any]) -> Fault:
    lacks = str(fault.get("lacks", "")).removesuffix(" *")
    if not lacks:
        return _contradiction(fault)
    name, needed_by = fault["package"], _needed_by(fault)
    if name.startswith("__"):
        return _unfit({**fault, "said": lacks, "has": (), "needed_by": needed_by})
    if fault["versions"]:
        newest = fault["versions"][0]
        return Fault(
            f"there is no version {lacks} in the conda channels{needed_by}; there are:"
            f" {', '.join(fault['versions'])}",
            f"name a version that exists, such as {name}={newest}",
            {"package": name, "newest": newest},
        )
    channels = ", ".join(fault["channels"])
    return Fault(
        f'package "{name}" was not found in the conda channels ({channels}){needed_by}',
        "check the spelling, or add the channel that has it; what only PyPI has belongs under pip:",
        {"package": name, "channels": channels},
    )


def _needed_by(fault: Mapping[str, Any]) -> str:
    """Names the package that needs what is lacking, unless it was asked for itself."""
    for found in _REQUIRES.finditer(fault["said"]):
        if found["spec"].split()[0] == fault["package"]:
            return f" (needed by {found['release']})"
    return ""


def _contradiction(fault: Mapping[str, Any]) -> Fault:
    said = fault["said"].partition("because of:")[2] or fault["said"]
    required = [*_REQUIRES.finditer(said)]
    reasons = dict.fromkeys(f"{found['release']} needs {found['spec']}" for found in required)
    names = {found["spec"].split()[0] for found in required}
    for spec in fault["specs"]:
        name = match_spec_name(spec)
        if name in names and name != spec:
            reasons[f"you ask for {spec}"] = None
    if not reasons:
        wanted = dict.fromkeys(found["spec"] for found in _EXCLUDED.finditer(said))
        reasons = {" and ".join(wanted) or _in_one_line(said): None}
    more = "; …" if len(reasons) > REASONS_SHOWN else ""
    shown = "; ".join([*reasons][:REASONS_SHOWN])[:MESSAGE_CHARACTERS]
    return Fault(
        f"the conda packages contradict each other: {shown}{more}",
        "loosen one of the versions that it names; all that was tried is in logs/environment.txt",
        {"conflict": shown},
    )


def _unfit(fault: Mapping[str, Any]) -> Fault:
    need = fault["said"]
    name, _, condition = need.partition(" ")
    what = _CAPABILITIES.get(name, f"what conda calls {name}")
    has = [one for one in fault["has"] if one.split()[0] == name]
    return Fault(
        f"this node lacks {what} ({need}){fault.get('needed_by', '')}"
        + (f"; it has {has[0]}" if has else ""),
        "run on a node that has it, or choose versions of the packages that do without",
        {"package": name, "needs": condition},
    )


def _uninstalled(fault: Mapping[str, Any]) -> Fault:
    name, said = fault["package"], _in_one_line(fault["said"])
    if "No space left on device" in said or "os error 28" in said:
        return Fault("the disk is full", "free some space on the node")
    if "hecksum" in said or "hash mismatch" in said:
        return Fault(
            f"the file of the conda package {name} is not the one that its channel lists"
            " (its checksum differs)",
            "the channel is damaged, or was changed meanwhile: index it again; if it is a locked"
            " version that was replaced, change the environment's packages",
            {"package": name},
        )
    return Fault(
        f"the conda package {name} could not be installed: {said}"
        if name
        else f"the conda packages could not be installed: {said}",
        "check that its channel is still there, and the node's network and disk",
        {"package": name} if name else {},
    )


def _broken(fault: Mapping[str, Any]) -> Fault:
    return Fault(
        f"rattler, which installs conda packages, failed: {fault['said'][:MESSAGE_CHARACTERS]}",
        "see logs/environment.txt; install `runyard[conda]` again",
    )


def _in_one_line(text: str) -> str:
    """Text without line breaks and the branches of trees."""
    return " ".join(_BRANCHES.sub(" ", text).split())[:MESSAGE_CHARACTERS]


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Fault]] = {
    "unreachable": _unreachable,
    "unreadable": _unreadable,
    "unsolvable": _unsolvable,
    "unfit": _unfit,
    "uninstalled": _uninstalled,
    "broken": _broken,
}
