"""pip requirements as people write them: files with includes, or the lines of a pip section.

What comes out is what an agent on another machine can install: named packages and URLs, one a line,
without comments, and apart from them the constraints and the indexes to ask. Whatever exists on
this machine only (a local folder, a wheel beside the script) is refused by file and line, and so
are credentials in URLs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runyard_contract.errors import SpecInvalid, Unsupported

FILE_MAX_BYTES = 1 << 20
INCLUDES_MAX = 100

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = r"(?:\s*\[[A-Za-z0-9._,\s-]*\])?"
_CLAUSE = r"(?:===|~=|==|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"{_NAME}{_EXTRAS}\s*(?:\(?\s*{_CLAUSE}(?:\s*,\s*{_CLAUSE})*\s*,?\s*\)?)?\s*(?:;.+)?\Z"
)
_DIRECT = re.compile(
    rf"(?:{_NAME}{_EXTRAS}\s*@\s*)?(?P<url>[A-Za-z][A-Za-z0-9+.-]*:\S+)(?:\s*;.+)?\Z"
)
_HASHES = re.compile(r"(?:\s+--hash[= ]\w+:[0-9a-fA-F]+)+\Z")
_COMMENT = re.compile(r"(?:^|\s+)#.*\Z")
_LOCAL_SUFFIXES = (".whl", ".tar.gz", ".zip", ".tar.bz2")
_INDEX_OPTIONS = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
}
_SWITCHES = ("--pre", "--no-index")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What to install, each in the order it was written.

    lines: PEP 508 names or URLs. constraints: the same form, for packages that come with these.
    index_options: `--index-url URL`, `--extra-index-url URL`, `--find-links URL`, `--pre`,
        `--no-index`.
    constraint_files: the files that the constraints stand in, as absolute paths.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    index_options: tuple[str, ...] = ()
    constraint_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a requirement is written."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


def read_requirements(path: Path) -> Requirements:
    """Reads a requirements.txt with what it includes (`-r`, `-c`, relative to the file).

    Raises `SpecInvalid` or `Unsupported`, each with file and line.
    """
    found = _Collector()
    found.file(path, is_constraint=False, included_at=None)
    return found.result()


def parse_requirements(
    lines: Iterable[tuple[Place, str]],
    folder: Path,
    constraints: Iterable[tuple[Place, str]] = (),
) -> Requirements:
    """The same for lines that stand elsewhere, such as a pip section; includes are in `folder`."""
    found = _Collector()
    for place, line in lines:
        found.line(place, line.strip(), folder, is_constraint=False)
    for place, line in constraints:
        found.line(place, line.strip(), folder, is_constraint=True)
    return found.result()


@dataclass(slots=True)
class _Collector:
    """Gathers requirements over files that include each other."""

    lines: dict[str, None] = field(default_factory=dict)  # ordered, an exact repeat counts once
    constraints: dict[str, None] = field(default_factory=dict)
    index_options: dict[str, None] = field(default_factory=dict)
    seen: dict[tuple[Path, bool], None] = field(default_factory=dict)

    def result(self) -> Requirements:
        files = tuple(str(path) for path, is_constraint in self.seen if is_constraint)
        return Requirements(
            tuple(self.lines), tuple(self.constraints), tuple(self.index_options), files
        )

    def file(self, path: Path, *, is_constraint: bool, included_at: Place | None) -> None:
        """Takes a file once; a file that includes itself therefore ends."""
        key = (path.resolve(), is_constraint)
        if key in self.seen:
            return
        self.seen[key] = None
        if len(self.seen) > INCLUDES_MAX:
            raise SpecInvalid(
                f"{path}: more than {INCLUDES_MAX} requirements files", file=str(path)
            )
        for number, line in _logical_lines(_read_text(path, included_at)):
            self.line(Place(str(path), number), line, path.parent, is_constraint=is_constraint)

    def line(self, place: Place, line: str, folder: Path, *, is_constraint: bool) -> None:
        """Takes one logical line."""
        if line.startswith("-"):
            self._option(place, line, folder, is_constraint)
        elif line:
            target = self.constraints if is_constraint else self.lines
            target[_requirement(place, line)] = None

    def _option(self, place: Place, line: str, folder: Path, is_constraint: bool) -> None:
        option, value = _split_option(line)
        if option in ("-r", "--requirement", "-c", "--constraint") and value:
            if "://" in value:
                raise _unsupported(place, option, "an include by URL is not served", "download it")
            as_constraint = is_constraint or option in ("-c", "--constraint")
            self.file(folder / value, is_constraint=as_constraint, included_at=place)
        elif option in _INDEX_OPTIONS and value:
            if _INDEX_OPTIONS[option] == "--find-links" and _is_folder(value):
                value = _folder_url(value, folder)
            else:
                _check_url(place, value, option)
            self.index_options[f"{_INDEX_OPTIONS[option]} {value}"] = None
        elif option in _SWITCHES and not value:
            self.index_options[option] = None
        elif option in ("-e", "--editable"):
            raise _local(place, line)
        else:
            raise _unsupported(
                place,
                option,
                f"the pip option {option} is not served",
                "remove the line; served are -r, -c, --index-url, --extra-index-url,"
                " --find-links, --pre, --no-index and --hash",
            )


def _split_option(line: str) -> tuple[str, str]:
    """("--index-url", "https://…") of `--index-url=https://…`, `-i https://…` and `-ihttps://…`."""
    if line.startswith("--"):
        option, _, value = re.sub(r"[=\s]", " ", line, count=1).partition(" ")
        return option, value.strip()
    return line[:2], line[2:].strip()


def _is_folder(value: str) -> bool:
    """Whether wheels lie there on the disk of the node that builds."""
    return value.startswith("file:///") or "://" not in value


def _folder_url(value: str, folder: Path) -> str:
    """A folder of wheels as a URL; a relative one is below that of the file that names it."""
    return value if "://" in value else (folder / Path(value).expanduser()).resolve().as_uri()


def _requirement(place: Place, line: str) -> str:
    hashes = _HASHES.search(line)
    bare = line[: hashes.start()] if hashes else line
    direct = _DIRECT.match(bare)
    if direct:
        _check_url(place, direct["url"], "a package")
    elif bare.startswith((".", "/", "~", "\\")) or "/" in bare.split(";")[0].split("@")[0]:
        raise _local(place, line)
    elif bare.lower().endswith(_LOCAL_SUFFIXES):
        raise _local(place, line)
    elif not _REQUIREMENT.match(bare):
        raise _invalid(place, f"{line[:200]!r} is not a requirement", _hint_for(bare))
    return line


def _hint_for(line: str) -> str:
    if re.match(rf"{_NAME}\s*=\s*[^=]", line):
        return "pip pins a version with two equals signs: name==1.2"
    return "write it as name, name==1.2, name>=1.2,<2 or name @ https://…"


def _check_url(place: Place, url: str, what: str) -> None:
    if "${" in url:
        raise _invalid(
            place,
            f"{what} has a variable in its URL; credentials are not sent with a run",
            "configure the index with its credentials on the machine that runs the job",
        )
    scheme = url.partition(":")[0].lower().rpartition("+")[2]
    if scheme == "file" or "://" not in url:
        raise _local(place, url)
    import urllib.parse  # 5 ms of start-up, for those only that name a URL

    try:
        parts = urllib.parse.urlsplit(
            url.partition("+")[2] if "+" in url.partition(":")[0] else url
        )
        secret = parts.password or (parts.username if scheme != "ssh" else None)
    except ValueError:
        raise _invalid(place, f"{what} has a URL that cannot be read") from None
    if secret:  # the URL itself is not repeated: it would stand in logs
        raise _invalid(
            place,
            f"{what} has credentials in its URL (host {parts.hostname}); they are not sent",
            "take them out and configure them on the machine that runs the job (netrc, uv or pip)",
        )


def _local(place: Place, line: str) -> SpecInvalid:
    return _invalid(
        place,
        f"{line[:200]!r} is on this machine only",
        "name a package of an index or a URL; code beside the script is in the run's snapshot"
        " and can be imported from there",
    )


def _unsupported(place: Place, option: str, problem: str, hint: str) -> Unsupported:
    return Unsupported(
        f"{place}: {problem}", hint=hint, file=place.source, line=str(place.line), option=option
    )


def _invalid(place: Place, problem: str, hint: str = "") -> SpecInvalid:
    return SpecInvalid(f"{place}: {problem}", hint=hint, file=place.source, line=str(place.line))


def _read_text(path: Path, included_at: Place | None) -> str:
    by = f"{included_at}: " if included_at else ""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise SpecInvalid(f"{by}cannot read {path}: {error.strerror}", file=str(path)) from None
    if len(data) > FILE_MAX_BYTES:
        raise SpecInvalid(f"{by}{path} is larger than {FILE_MAX_BYTES >> 20} MiB", file=str(path))
    # `pip freeze > requirements.txt` in PowerShell writes UTF-16 with a byte order mark.
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise SpecInvalid(
            f"{by}{path} is not a text file in UTF-8", hint="save it as UTF-8", file=str(path)
        ) from None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) with continued lines joined and comments gone."""
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        first = first if pending else number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            pending += raw[:-1]
            continue
        line = _COMMENT.sub("", pending + raw).strip()
        pending = ""
        if line:
            yield first, line
    line = _COMMENT.sub("", pending).strip()
    if line:
        yield first, line
