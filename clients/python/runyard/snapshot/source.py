"""Which folder is the source directory, and where the script lies in it."""

from __future__ import annotations

import os
from pathlib import Path

from runyard_contract.errors import SourceInvalid
from runyard_contract.nearest import nearest
from runyard_contract.paths import shown
from runyard_contract.value import value_class

_NAMED_SCRIPTS = 200  # of a folder's names, to find the nearest


@value_class
class Source:
    """A source directory (real path) and the script in it (with `/`), empty for a command."""

    directory: str
    script: str = ""


def find_source(
    directory: str | os.PathLike[str] | None,
    script: str | os.PathLike[str] | None,
    *,
    script_from_cwd: bool = False,
) -> Source:
    """The source directory of a run.

    It is `directory`; else the current folder where the script lies in it; else the script's own
    folder. The script is looked up from the directory and from the current folder (first, with
    `script_from_cwd`). Raises SourceInvalid for a directory that is missing or too wide to be
    meant, and for a script that is missing or lies outside.
    """
    cwd = os.getcwd()
    root = _real_folder(os.fspath(directory)) if directory is not None else None
    if script is None or not os.fspath(script):
        return Source(root or _narrow(_real_folder(cwd)))
    text = os.fspath(script)
    bases = [root, cwd] if root is not None else [cwd]
    if script_from_cwd:
        bases.reverse()
    candidates = [os.path.join(base, text) for base in bases if base is not None]
    found = [_real_script(path) for path in candidates if os.path.isfile(path)]
    if not found:
        raise _no_script(text, root or cwd)
    if root is None:
        real_cwd = os.path.realpath(cwd)
        inside = _relative(found[0], real_cwd)
        folder = real_cwd if inside else os.path.dirname(found[0])
        return Source(_narrow(folder), inside or os.path.basename(found[0]))
    for path in found:
        inside = _relative(path, root)
        if inside:
            return Source(root, inside)
    raise SourceInvalid(
        f"the script {shown(text)} is not in the source directory {shown(root)}",
        hint="choose a folder that holds it with --source (source_directory)",
        script=shown(text),
        source=shown(root),
    )


def _real_folder(directory: str) -> str:
    """The real path of a directory that must be there."""
    real = os.path.realpath(directory)
    if not os.path.isdir(real):
        what = "is not a folder" if os.path.exists(real) else "does not exist"
        raise SourceInvalid(
            f"the source directory {shown(directory)} {what}",
            hint="name the folder that holds the script",
            source=shown(directory),
        )
    return real


def _real_script(path: str) -> str:
    """The script's path with its folder resolved; a link to a script stays a link."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _relative(path: str, root: str) -> str:
    """The path below `root`, empty where it is outside."""
    prefix = root.rstrip(os.sep) + os.sep
    return path.removeprefix(prefix).replace(os.sep, "/") if path.startswith(prefix) else ""


def _narrow(directory: str) -> str:
    """Refuses a directory that nobody means to send whole, unless they name it."""
    homes = {os.path.realpath(os.path.expanduser("~")), os.path.realpath("/root")}
    if directory == os.path.abspath(os.sep):
        why = "is the root of the file system"
    elif directory in homes:
        why = "is a home directory"
    elif os.path.isdir(os.path.join(directory, ".ssh")):
        why = "holds .ssh"
    else:
        return directory
    raise SourceInvalid(
        f"the source directory would be {shown(directory)}, which {why}",
        hint="put the script in a folder of its own, or name the folder with --source "
        "(source_directory) if it is meant",
        source=shown(directory),
    )


def _no_script(script: str, folder: str) -> SourceInvalid:
    """The error for a script that is not there, with the nearest name."""
    beside = os.path.join(folder, os.path.dirname(script))
    try:
        names = [name for name in os.listdir(beside) if not name.startswith(".")]
    except OSError:
        names = []
    close = nearest(os.path.basename(script), names[:_NAMED_SCRIPTS])
    suggestion = f'; did you mean "{shown(close)}"?' if close else ""
    return SourceInvalid(
        f"there is no script {shown(script)} in {shown(folder)}{suggestion}",
        hint="give the script's path from the current folder or from the source directory; "
        "for a program that is no Python script use `runyard run -- PROGRAM ARGS`",
        script=shown(script),
        source=shown(folder),
    )


def check_in_snapshot(source: Source, files: int, is_there: bool) -> None:
    """Raises SourceInvalid where the script did not get into the snapshot, and says why."""
    if not source.script or is_there:
        return
    if not files:
        raise SourceInvalid(
            f"the source directory {shown(source.directory)} has no files to send",
            hint="look at what its ignore file keeps out",
            source=shown(source.directory),
        )
    from runyard_contract.ignore import IgnoreRules

    rule = IgnoreRules.for_tree(Path(source.directory)).explain(source.script, is_dir=False)
    why = f"the rule {rule} keeps it out" if rule else "it is no plain file"
    raise SourceInvalid(
        f"the script {shown(source.script)} is not in the snapshot: {why}",
        hint=f"add the line `!{shown(source.script)}` to the ignore file" if rule else "",
        script=shown(source.script),
        rule=str(rule or ""),
    )
