"""What is installed in an environment of the conda, mamba or micromamba on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runyard.conda_file import CondaFile, read_conda
from runyard.yaml_document import YamlDocument
from runyard_contract.errors import EnvironmentNotFound, RunyardError, SpecInvalid
from runyard_contract.nearest import nearest

_VARIABLES = ("CONDA_EXE", "MAMBA_EXE")
_NAMES = ("conda", "mamba", "micromamba")
# mamba 1 has conda's option and mamba 2 has micromamba's: builds are cut off here as well.
_WITHOUT_BUILDS = {"conda": ["--no-builds"], "micromamba": ["--no-build"]}
_BUILD = re.compile(r"(?P<kept>(?:\S+::)?[^=\s\[]+=[^=\s\[]+)(?:=[^=\s\[]+)?(?:\[md5=\w+\])?")
_BASE = "base"
_LIMIT_S = 300
_SAID_LINES = 5
_SHOWN_NAMES = 10


def export_environment(wanted: str, environ: Mapping[str, str]) -> CondaFile:
    """The packages with their versions, channels and variables of a conda environment, as `conda
    env export` tells them, without builds.

    Args:
        wanted: its name, or the path of its folder where it has a separator.
        environ: CONDA_EXE and MAMBA_EXE name programs to ask, PATH has others; the first one that
            knows the environment answers.

    Raises SpecInvalid where there is no such program, or it fails, with its last words;
    EnvironmentNotFound, with the nearest name, for an environment that none of them knows.
    """
    programs = list(find_programs(environ))
    if not programs:
        raise SpecInvalid(
            f"conda environment {wanted!r} can't be read: there is no conda, mamba or micromamba"
            f" in {', '.join(_VARIABLES)} or PATH",
            hint="set CONDA_EXE to the path of your conda, or export the environment where it is"
            " and use Environment.from_conda_specification",
            environment=wanted,
        )
    known: dict[str, None] = {}
    for program in programs:
        answer = _ask(program, export_arguments(program, wanted), environ)
        if isinstance(answer, str):
            found = read_export(answer, f"{program} env export")
            if found.conda or found.pip:
                return _with_real_channels(found, program, environ)
        listed = _ask(program, ["env", "list", "--json"], environ)
        names = environment_names(listed) if isinstance(listed, str) else None
        if names is None or _is_conda_folder(wanted) or wanted in map(os.path.basename, names):
            raise _failure(wanted, program, answer)
        known.update(dict.fromkeys(names))
    raise _not_found(wanted, list(known), programs)


def find_programs(environ: Mapping[str, str]) -> Iterator[str]:
    """The programs to ask, each once."""
    named = [environ.get(variable, "") for variable in _VARIABLES]
    on_path = [shutil.which(name, path=environ.get("PATH", "")) for name in _NAMES]
    seen = set()
    for program in (*named, *on_path):
        if (
            program
            and shutil.which(program, path=environ.get("PATH"))
            and os.path.realpath(program) not in seen
        ):
            seen.add(os.path.realpath(program))
            yield program


def export_arguments(program: str, wanted: str) -> list[str]:
    """The arguments of a program that has it tell what is in an environment."""
    where = ["-p", os.path.abspath(os.path.expanduser(wanted))] if _is_path(wanted) else None
    options = _WITHOUT_BUILDS.get(Path(program).stem, [])
    return ["env", "export", *(where or ["-n", wanted]), *options]


def read_export(text: str, source: str) -> CondaFile:
    """What an export says, without builds. Raises SpecInvalid, naming the source."""
    document = YamlDocument(source, text)
    found = read_conda(document.root, document.source)
    found.conda = [without_build(package) for package in found.conda]
    return found


def without_build(package: str) -> str:
    """`name=version` of an export's `name=version=build[md5=…]`; anything else as it is."""
    match = _BUILD.fullmatch(package)
    return match["kept"] if match else package


def environment_names(listed: str) -> list[str] | None:
    """What `env list --json` lists: names, and paths of what is elsewhere; None for no such
    list."""
    try:
        paths = [Path(str(path)) for path in json.loads(listed)["envs"]]
    except (ValueError, KeyError, TypeError):
        return None
    roots = {path.parent.parent for path in paths if path.parent.name == "envs"} | {*paths[:1]}
    return [
        path.name if path.parent.name == "envs" else _BASE if path in roots else str(path)
        for path in paths
    ]


def _is_path(wanted: str) -> bool:
    return os.sep in wanted or wanted.startswith("~")


def _is_conda_folder(wanted: str) -> bool:
    return _is_path(wanted) and Path(wanted).expanduser().joinpath("conda-meta").is_dir()


def _ask(
    program: str, arguments: Sequence[str], environ: Mapping[str, str]
) -> str | tuple[str, str]:
    """What a program prints; or, where it fails, how and its last words."""
    try:
        done = subprocess.run(
            [program, *arguments],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except OSError as error:
        return f"could not be started: {error.strerror}", ""
    except subprocess.TimeoutExpired:
        return f"did not answer within {_LIMIT_S} s", ""
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace")
        how = f"ended with exit code {done.returncode}"
        return how, "\n".join(said.splitlines()[-_SAID_LINES:])
    return done.stdout.decode("utf-8", "replace")


def _with_real_channels(found: CondaFile, program: str, environ: Mapping[str, str]) -> CondaFile:
    """With the channels that the program means by "defaults", which other machines may not."""
    if "defaults" in found.channels:
        answer = _ask(program, ["config", "--show", "default_channels", "--json"], environ)
        try:
            meant = [str(one) for one in json.loads(str(answer))["default_channels"]]
        except (ValueError, KeyError, TypeError):
            return found  # what it stands for is asked for when the environment is used
        channels = (
            one for name in found.channels for one in (meant if name == "defaults" else [name])
        )
        found.channels = list(dict.fromkeys(channels))
        found.conda = [package.removeprefix("defaults::") for package in found.conda]
    return found


def _failure(wanted: str, program: str, answer: str | tuple[str, str]) -> RunyardError:
    """The error for an environment that is there, and was not told of."""
    if isinstance(answer, str):
        return SpecInvalid(
            f"conda environment {wanted!r} has no packages, says {program}",
            hint=f"look at it with `{program} list`",
            environment=wanted,
        )
    how, said = answer
    return SpecInvalid(
        f"conda environment {wanted!r} can't be read: {program} env export {how}"
        + (f":\n{said}" if said else ""),
        hint=f"try `{program} {' '.join(export_arguments(program, wanted))}`",
        environment=wanted,
        program=program,
    )


def _not_found(wanted: str, known: list[str], programs: Sequence[str]) -> EnvironmentNotFound:
    asked = ", ".join(programs)
    if _is_path(wanted):
        return EnvironmentNotFound(
            f"{wanted} is no conda environment (asked {asked})",
            hint="give the folder that has conda-meta in it, or the environment's name",
            name=wanted,
        )
    close = nearest(wanted, known)
    more = ", …" if len(known) > _SHOWN_NAMES else ""
    hint = f"there are: {', '.join(known[:_SHOWN_NAMES])}{more}"
    error = EnvironmentNotFound(
        f"there is no conda environment {wanted!r} (asked {asked})"
        + (f'; did you mean "{close}"?' if close else ""),
        hint=hint if known else f"list them with `{programs[0]} env list`",
        name=wanted,
    )
    if close:
        error.metadata["nearest"] = close
    return error
