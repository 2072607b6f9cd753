"""Solving and installing conda packages with the node's own micromamba, mamba or conda.

Their command line and JSON are those of `conda create`, which all three have in common.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from runyard_agent.environments.conda_lock import CondaLock, CondaPackage, solved
from runyard_agent.environments.conda_programs import CondaProgram, variables
from runyard_agent.environments.programs import Outcome, run_program

Hear = Callable[[bytes], None]
SAID_CHARACTERS = 300
_OBJECT = re.compile(r"\{")


class NotDone(Exception):
    """The program could not do it; the text says why, in one line."""


class OwnConda:
    """One program of the node.

    Args:
        program: which.
        environ: the agent's variables; settings of the program among them and its files count.
        mirrors: where channels are read instead; of each the first is asked.
    """

    def __init__(
        self,
        program: CondaProgram,
        environ: Mapping[str, str],
        mirrors: Mapping[str, Sequence[str]],
    ) -> None:
        self._program = program
        self._environ = variables(environ)
        self._mirrors = {channel: urls[0] for channel, urls in mirrors.items() if urls}

    async def solve(
        self,
        specs: Sequence[str],
        channels: Sequence[str],
        hear: Hear,
        *,
        is_refresh: bool = False,
    ) -> CondaLock:
        """The packages that fit match specs, from these channels, on this node. Raises NotDone.

        With `is_refresh` the channels are read anew.
        """
        sources = [self._mirrors.get(channel, channel) for channel in channels]
        for channel, source in zip(channels, sources, strict=True):
            if source != channel and "://" not in channel:
                # Its own address, which the lock has to name, is known to the built-in alone.
                raise NotDone(f"it can't read {channel} at a mirror")
        with self._index(is_refresh) as folder:
            outcome = await self._create(
                folder / "prefix",
                *("--dry-run", "--override-channels", "--strict-channel-priority"),
                *(f"--channel={source}" for source in sources),
                *specs,
                hear=hear,
                # Of a folder without packages it tells all that it would fetch, with their hashes;
                # of those that it has in its own it names no more than the file.
                env={"CONDA_PKGS_DIRS": str(folder)},
            )
        answer = read_answer(outcome.answer.decode("utf-8", "replace"))
        back = {source: channel for channel, source in self._mirrors.items()}
        return solved(planned(answer, back))

    async def install(
        self,
        lock: CondaLock,
        prefix: Path,
        hear: Hear,
        kept_fds: Sequence[int],
        packages: Path | None = None,
    ) -> None:
        """Installs a lock's packages into a folder that is not there yet.

        Raises NotDone, and nothing is there then. The program has `kept_fds` meanwhile. Packages
        are kept in the folder `packages`. Default: where the program keeps them.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="runyard-conda-") as folder:
                # Newer programs tell the form of a list by the ending of its name.
                explicit = Path(folder) / "explicit.txt"
                lines = (self._explicit(one) + "\n" for one in lock.packages)
                explicit.write_text("@EXPLICIT\n" + "".join(lines), encoding="utf-8")
                env = {"CONDA_PKGS_DIRS": str(packages)} if packages else {}
                file = f"--file={explicit}"
                await self._create(prefix, file, hear=hear, env=env, kept_fds=kept_fds)
            check_installed(lock, prefix)
        except (NotDone, OSError) as error:
            shutil.rmtree(prefix, ignore_errors=True)
            raise NotDone(str(error)) from None

    async def _create(
        self,
        prefix: Path,
        *arguments: str,
        hear: Hear,
        env: Mapping[str, str] | None = None,
        kept_fds: Sequence[int] = (),
    ) -> Outcome:
        only_condas = ("--no-default-packages",) if self._program.is_conda else ()
        argv = (self._program.path, "create", f"--prefix={prefix}", "--yes", "--json")
        try:
            outcome = await run_program(
                (*argv, *only_condas, *arguments),
                hear=hear,
                env={**self._environ, **(env or {})},
                kept_fds=kept_fds,
            )
        except OSError as error:
            raise NotDone(f"it can't be started: {error.strerror}") from None
        if outcome.returncode != 0:
            raise NotDone(why(outcome))
        return outcome

    def _explicit(self, package: CondaPackage) -> str:
        """A package's line in an explicit list, with its address at a mirror if there is one."""
        url = package.url
        of_channel = channel_of(url)
        for channel, mirror in self._mirrors.items():
            if of_channel == channel.rstrip("/") or (
                "://" not in channel and urlsplit(of_channel).path == f"/{channel}"
            ):
                url = mirror.rstrip("/") + url.removeprefix(of_channel)
        return f"{url}#{package.digest}" if package.digest else url

    @contextlib.contextmanager
    def _index(self, is_refresh: bool) -> Iterator[Path]:
        """Where the program keeps the channels' lists of packages for solutions.

        With `is_refresh` an empty folder, for a while.
        """
        caches = self._environ.get("XDG_CACHE_HOME")
        home = self._environ.get("HOME") or os.path.expanduser("~")
        folder = Path(caches or f"{home}/.cache") / "runyard" / "conda-index"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotDone(f"{folder} can't be made: {error.strerror}") from None
        if not is_refresh:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix=".anew-", dir=folder) as empty:
            yield Path(empty)


def channel_of(url: str) -> str:
    """The channel that a package's file is in."""
    path = PurePosixPath(url)
    return url.removesuffix(f"/{path.parent.name}/{path.name}")


def read_answer(text: str) -> Mapping[str, Any]:
    """The JSON object in what a program prints, whatever else it prints; empty without any."""
    decoder = json.JSONDecoder()
    for start in _OBJECT.finditer(text):
        try:
            found, _ = decoder.raw_decode(text, start.start())
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def planned(answer: Mapping[str, Any], channels: Mapping[str, str]) -> Iterator[CondaPackage]:
    """The packages of a dry run's answer.

    Args:
        answer: of `create --dry-run --json`.
        channels: by the address that was asked, where that is a mirror.

    Raises NotDone where it does not say all of one.
    """
    actions = answer.get("actions")
    if not isinstance(actions, dict):
        raise NotDone("it does not say what it would install")
    try:
        told = {one["name"]: one for part in ("LINK", "FETCH") for one in actions.get(part, ())}
    except (KeyError, TypeError):
        raise NotDone("it does not say what it would install") from None
    for name, record in told.items():
        url = record.get("url")
        digest = f"sha256:{record['sha256']}" if record.get("sha256") else record.get("md5")
        if not url or not digest:
            raise NotDone(f"it does not tell the hash of {name}")
        source = channel_of(url)
        for mirror, channel in channels.items():
            if source == mirror.rstrip("/"):
                url = channel.rstrip("/") + url.removeprefix(source)
        build = record.get("build") or record.get("build_string")
        yield CondaPackage(url, digest, {**record, "build": build})


def check_installed(lock: CondaLock, prefix: Path) -> None:
    """Raises NotDone unless all packages of a lock are in an environment."""
    for package in lock.packages:
        if not (prefix / "conda-meta" / f"{package.release.replace(' ', '-')}.json").exists():
            raise NotDone(f"it did not install {package.name}")


def why(outcome: Outcome) -> str:
    """What a failed program says, in one line."""
    answer = read_answer(outcome.answer.decode("utf-8", "replace"))
    problems = answer.get("solver_problems") or ()
    said = "; ".join(map(str, problems)) or answer.get("message") or answer.get("error")
    if not said:
        lines = [line.strip() for line in outcome.said.splitlines() if line.strip()]
        said = lines[-1] if lines else f"it ended with {outcome.returncode}"
    return " ".join(str(said).split()).rstrip(".")[:SAID_CHARACTERS]
