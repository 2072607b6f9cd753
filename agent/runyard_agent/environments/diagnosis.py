"""What uv's output says of a failure: the package at fault, why, and what to try.

uv prints causes for people, in words that change between versions; what is not recognised here is
shown as it stands, without its ornaments.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MESSAGE_CHARACTERS = 600

_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_TREE_LINES = re.compile("[\u2502\u251c\u2570\u2500\u25b6]")
_START = re.compile("^\\s*(?:error:|\u00d7)", re.MULTILINE)  # a multiplication sign before uv 0.9
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_RELEASE = rf"{_NAME}(?:\[[^\]]*\])?[=<>!~][^\s,`]*"
_PLACES = {
    "package registry": "package index",
    "provided package locations": "folders and pages given by --find-links",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure in the words of EnvironmentFailed.

    `unknown_release` is the name of a package of which the version asked for does not exist.
    """

    message: str
    advice: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    unknown_release: str = ""


def diagnose(output: str, python_version: str) -> Fault:
    """The fault that this output of uv tells of.

    Args:
        output: the end of its standard error.
        python_version: of the environment's interpreter, for the advice.
    """
    plain = _TREE_LINES.sub(" ", _COLOURS.sub("", output))
    start = _START.search(plain)
    lines = [line.strip() for line in plain[start.start() if start else 0 :].splitlines()]
    text = " ".join(" ".join(line for line in lines if line).split())
    for pattern, explain in _RULES:
        found = pattern.search(text)
        if found:
            return explain(found, lines, python_version)
    first = text.removeprefix("error:").strip()[:MESSAGE_CHARACTERS]
    return Fault(f"uv failed: {first or 'it said nothing'}", "see logs/environment.txt")


def _disk_full(found: re.Match[str], lines: list[str], python: str) -> Fault:
    path = re.search(r"`(/[^`]+)`", found.string)
    where = f" (while writing {path[1]})" if path else ""
    return Fault(
        f"the disk is full{where}",
        "free some space; `uv cache clean` empties uv's cache",
        {"path": path[1]} if path else {},
    )


def _hash_mismatch(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"the files of {found['release']} are not those that were locked (hash mismatch)",
        "somebody replaced them in the package index: find out why, then change the environment's"
        " packages so that it is resolved again",
        _package(found["release"]),
    )


def _build(found: re.Match[str], lines: list[str], python: str) -> Fault:
    release = found["release"].partition(" @ ")[0]
    return Fault(
        f"{release} could not be built from source: {_last_cause(lines)}",
        f"choose a version that has a wheel for Python {python}, or install what its build needs"
        " (a compiler, headers) on the node; the whole build is in logs/environment.txt",
        _package(release),
    )


def _unauthorized(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"the package index refuses access: {found['status']} for {found['url']}",
        "configure its credentials on the node (~/.netrc, UV_INDEX_URL or uv.toml)",
        {"url": found["url"], "status": found["status"]},
    )


def _unreachable(found: re.Match[str], lines: list[str], python: str) -> Fault:
    host = re.sub(r"\Ahttps?://([^/]*).*\Z", r"\1", found["url"])
    return Fault(
        f"{host} can't be reached: {_last_cause(lines)}",
        "check the node's network and proxy; another index is set with --index-url in the"
        " requirements or with UV_DEFAULT_INDEX",
        {"url": found["url"], "host": host},
    )


def _last_cause(lines: list[str]) -> str:
    """The innermost cause that uv names, without its advice."""
    said = [line for line in lines if line and not line.startswith(("hint:", "[", "---"))]
    last = re.sub(r"\A(?:cause|Caused by|error):\s*", "", said[-1]) if said else ""
    return last[:MESSAGE_CHARACTERS]


def _not_a_requirement(found: re.Match[str], lines: list[str], python: str) -> Fault:
    wrong = next((above for above, line in itertools.pairwise(lines) if _is_mark(line)), "")
    return Fault(
        f"a requirement can't be read: {wrong or found.string[:MESSAGE_CHARACTERS]}",
        "write it as name, name==1.2, name>=1.2,<2 or name @ https://…",
        {"requirement": wrong} if wrong else {},
    )


def _is_mark(line: str) -> bool:
    """Whether a line only marks a place in the one above."""
    return bool(line) and not line.strip("^")


def _offline(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"{found['package']} is not in uv's cache, and UV_OFFLINE forbids to fetch it",
        "unset UV_OFFLINE where runyard is started",
        _package(found["package"]),
    )


def _not_found(found: re.Match[str], lines: list[str], python: str) -> Fault:
    name = found["package"]
    where = _PLACES[found["place"]]
    return Fault(
        f'package "{name}" was not found in the {where}{_needed_by(name, found.string)}',
        "check the spelling; a package of a private index needs --index-url or --extra-index-url",
        _package(name),
    )


def _needed_by(name: str, text: str) -> str:
    """Names the package of which another is a dependency, unless it was asked for itself."""
    needs = re.search(rf"({_NAME})(?:[=<>!~]\S+)? depends? on {re.escape(name)}\b", text)
    return f" (needed by {needs[1]})" if needs else ""


def _no_version(found: re.Match[str], lines: list[str], python: str) -> Fault:
    release = found["release"]
    name = _package(release)["package"]
    return Fault(
        f"there is no version {release} for Python {python}{_needed_by(name, found.string)}",
        "name a version that exists",
        {"package": name},
        unknown_release=name,
    )


def _only_others(found: re.Match[str], lines: list[str], python: str) -> Fault:
    wanted, available = found["wanted"].rstrip(","), " and ".join(found["available"].split())
    needed_by = _needed_by(found["package"], found.string)
    return Fault(
        f"there is no version {wanted} for Python {python}{needed_by}; available: {available}",
        f"name a version that exists ({available})",
        {"package": found["package"], "available": available},
    )


def _other_python(found: re.Match[str], lines: list[str], python: str) -> Fault:
    release, needs = found["release"].rstrip(","), found["needs"].rstrip(",")
    return Fault(
        f"{release} needs Python {needs}; this environment has {python}",
        "ask for another Python version, or for a version of the package that still has this one",
        {**_package(release), "python": python, "requires": needs},
    )


def _no_wheel(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"{found['release']} has no wheel for this platform and Python {python}",
        "choose another version of the package or of Python",
        {**_package(found["release"]), "python": python},
    )


def _conflict(found: re.Match[str], lines: list[str], python: str) -> Fault:
    cause = found["cause"].strip().rstrip(".")[:MESSAGE_CHARACTERS]
    names = re.findall(rf"({_NAME})[=<>!~]", cause)
    return Fault(
        f"the requirements contradict each other: {cause}",
        "loosen one of the versions that it names",
        _package(names[-1]) if names else {},
    )


def _two_contradict(found: re.Match[str], lines: list[str], python: str) -> Fault:
    """Two requirements of the user, with the last that uv concluded of what they depend on."""
    before = found.string[: found.start()]
    concluded = re.findall(rf"((?:all versions of )?{_NAME}\S* depends? on {_NAME}\S*)", before)
    why = f" ({concluded[-1].rstrip('.,')})" if concluded else ""
    one, other = found["one"], found["other"]
    return Fault(
        f"the requirements contradict each other: {one} and {other}{why}",
        f"loosen {one} or {other}; the whole reasoning is in logs/environment.txt",
        _package(concluded[-1].rpartition(" ")[2] if concluded else other),
    )


def _no_python(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"there is no interpreter for {found['wanted']}",
        "name a Python that is on the node",
        {"python": found["wanted"]},
    )


def _git(found: re.Match[str], lines: list[str], python: str) -> Fault:
    return Fault(
        f"a git repository can't be fetched: {_last_cause(lines)}",
        "check its URL and revision, and that the node has git and access to it",
    )


def _package(release: str) -> dict[str, str]:
    """The metadata that names the package of "name==1.2"."""
    named = re.match(_NAME, release)
    return {"package": named[0].rstrip("._-")} if named else {}


_Explain = Callable[[re.Match[str], list[str], str], Fault]

# In this order: a full disk or a dead index explains whatever else is said with it.
_RULES: tuple[tuple[re.Pattern[str], _Explain], ...] = (
    (re.compile(r"No space left on device|Disk quota exceeded|\(os error 28\)"), _disk_full),
    (re.compile(r"Hash mismatch for `(?P<release>[^`]+)`"), _hash_mismatch),
    (re.compile(r"Git operation failed|failed to (?:clone|fetch) (?:into|branch|commit)"), _git),
    (
        re.compile(r"Failed to (?:download and )?build:? `(?P<release>[^`]+)`"),
        _build,
    ),
    (
        re.compile(
            r"HTTP status client error \((?P<status>40[137] [^)]*)\) for url \((?P<url>[^)]*)\)"
        ),
        _unauthorized,
    ),
    (
        re.compile(
            r"hint: An index(?: URL)? \((?P<url>[^)]*)\) .*?(?P<status>40[13] \w+)(?: error|\))"
        ),
        _unauthorized,
    ),
    (
        re.compile(
            r"(?:Failed to (?:fetch|download):? `?|error sending request for url \()"
            r"(?P<url>https?://[^\s)`]+)"
        ),
        _unreachable,
    ),
    (re.compile(r"Couldn't parse requirement|Failed to parse requirement"), _not_a_requirement),
    (re.compile(rf"(?P<package>{_NAME}) was not found in the cache"), _offline),
    (
        re.compile(
            rf"(?P<package>{_NAME}) was not found in the "
            r"(?P<place>package registry|provided package locations)"
        ),
        _not_found,
    ),
    (
        re.compile(
            rf"you require (?P<one>{_NAME}\S*) and (?P<other>{_NAME}[^\s,]*(?:,[^\s,]+)*), "
            r"we can conclude that your requirements are unsatisfiable"
        ),
        _two_contradict,
    ),
    (
        re.compile(
            rf"(?P<release>{_RELEASE}|{_NAME}) (?:requires|depends on) "
            r"Python ?(?P<needs>[<>=!~][^\s]+)"
        ),
        _other_python,
    ),
    (re.compile(rf"(?P<release>{_RELEASE}) has no wheels with a matching"), _no_wheel),
    (re.compile(rf"there is no version of (?P<release>{_RELEASE})"), _no_version),
    (
        re.compile(
            rf"only (?P<available>(?P<package>{_NAME})[=<>!~]\S+) (?:is|are) available and "
            rf"(?:you require|.{{0,200}}?depends? on) (?P<wanted>(?P=package)[=<>!~]\S+)"
        ),
        _only_others,
    ),
    (
        re.compile(
            rf"only the following versions of (?P<package>{_NAME}) are available: "
            rf"(?P<available>.{{1,2000}}?) and (?:you require|.{{0,200}}?depends? on) "
            rf"(?P<wanted>(?P=package)[=<>!~]\S+)"
        ),
        _only_others,
    ),
    (re.compile(r"No interpreter found (?:for|at path) (?P<wanted>.+?)(?: in |$)"), _no_python),
    (
        re.compile(r"No solution found.*?(?:cause:)?\s*(?P<cause>Because .*?unsatisfiable)"),
        _conflict,
    ),
)
