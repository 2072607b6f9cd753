"""pip packages: resolved to exact versions with hashes and installed, by uv."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.environments.builds import count_of
from runyard_agent.environments.diagnosis import Fault, diagnose
from runyard_agent.environments.interpreters import Interpreter
from runyard_agent.environments.lock import is_hashed, packages
from runyard_agent.environments.programs import Outcome
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.shared_work import Audience
from runyard_agent.environments.uv import Uv
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import PipPackages

LOCK_NAME = "runyard-lock.txt"
NEWEST_LIMIT_S = 15.0
_TRUE = ("1", "true", "t", "yes", "y", "on")
_LONG_STEPS = ("Downloading", "Building", "Updating")
# "+ name==1.2", "+ name @ https://…" and, of older ones, "+ name==1.2 (from https://…)".
_PLANNED = re.compile(
    r"^\s*[+~] (?P<release>(?P<name>[^\s=@]+)\S*(?: @ \S+)?)(?: \(from (?P<url>.+)\))?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """Packages that pip would be asked for, on the Python that they are for."""

    pip: PipPackages
    options: tuple[str, ...]
    python: Interpreter
    is_refresh: bool = False

    @property
    def resolving(self) -> tuple[str, ...]:
        """uv's options to resolve: with a refresh, without what it remembers of indexes."""
        return (*self.options, "--refresh") if self.is_refresh else self.options


class UvPip:
    """Resolves and installs pip packages with uv."""

    def __init__(self, uv: Uv) -> None:
        self._uv = uv

    def wish(self, pip: PipPackages, python: Interpreter, *, is_refresh: bool = False) -> Wish:
        """What is asked for, with uv's options. Raises EnvironmentFailed for what is not served."""
        return Wish(pip, index_options(pip, self._uv.environ), python, is_refresh)

    async def resolve(self, wish: Wish, audience: Audience) -> str:
        """The text of a lock: exact versions of all that is needed, with hashes of their files."""
        refuse_options(wish.pip)
        return await self._compile(wish, wish.pip.requirements, audience)

    async def resolve_missing(self, wish: Wish, audience: Audience) -> str:
        """The same of what the environment of the wish's Python does not have already."""
        refuse_options(wish.pip)
        with _constraints(wish.pip) as (constraints, fds):
            outcome = await self._uv.run(
                *("pip", "install", "--dry-run", "--python", wish.python.path, *wish.resolving),
                *(*constraints, "-r", "-"),
                given="\n".join(wish.pip.requirements) + "\n",
                hear=audience.write,
                kept_fds=fds,
            )
        if outcome.returncode != 0:
            raise await self._failure(outcome, wish, audience)
        planned = [
            f"{found['name']} @ {found['url']}" if found["url"] else found["release"]
            for found in _PLANNED.finditer(outcome.said)
        ]
        return await self._compile(wish, planned, audience, "--no-deps") if planned else ""

    async def make_venv(self, folder: Path, wish: Wish, audience: Audience, lock_fd: int) -> None:
        """Makes an environment without packages; uv inherits the descriptor of its lock."""
        await self._run(
            ("venv", "--quiet", "--no-project", "--python", wish.python.path, str(folder)),
            audience.write,
            wish,
            audience,
            lock_fd,
        )

    async def install(
        self,
        text: str,
        folder: Path,
        wish: Wish,
        audience: Audience,
        lock_fd: int,
        *,
        lock_name: str = LOCK_NAME,
        is_fresh: bool = False,
    ) -> None:
        """Installs what a lock's text says into the environment in `folder`, if it says anything.

        The text is kept there as `lock_name`. uv inherits the descriptor of the folder's lock.
        `is_fresh`: nothing of its cache is taken.
        """
        lock_file = folder / lock_name
        lock_file.write_text(text, encoding="utf-8")
        count = packages(text)
        if not count:
            return
        steps = Steps(count_of(count), audience)
        hashes = ["--require-hashes"] if is_hashed(text) else []
        await self._run(
            (
                *("pip", "install", "--no-deps", *hashes, *wish.options),
                *(["--no-cache"] if is_fresh else []),
                *("--python", str(folder / "bin" / "python"), "-r", str(lock_file)),
            ),
            steps.hear,
            wish,
            audience,
            lock_fd,
        )

    async def _run(
        self,
        arguments: Sequence[str],
        hear: Callable[[bytes], None],
        wish: Wish,
        audience: Audience,
        lock_fd: int,
    ) -> None:
        """Runs uv for a build; EnvironmentFailed where it fails."""
        outcome = await self._uv.run(*arguments, hear=hear, kept_fds=(lock_fd,))
        if outcome.returncode != 0:
            raise await self._failure(outcome, wish, audience)

    async def _compile(
        self, wish: Wish, requirements: Sequence[str], audience: Audience, *more: str
    ) -> str:
        """uv's lock of these requirements."""
        with _constraints(wish.pip) as (constraints, fds):
            outcome = await self._uv.run(
                *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", *more),
                *("--python", wish.python.path, *wish.resolving, *constraints, "-"),
                given="\n".join(requirements) + "\n",
                hear=audience.write,
                kept_fds=fds,
            )
        if outcome.returncode != 0:
            raise await self._failure(outcome, wish, audience)
        return outcome.answer.decode("utf-8", "replace")

    async def _failure(self, outcome: Outcome, wish: Wish, audience: Audience) -> EnvironmentFailed:
        """The error for what uv said; where a version does not exist, with the newest that does."""
        fault = diagnose(outcome.said, wish.python.version)
        if fault.unknown_release:
            fault = await self._with_newest(fault, wish)
        audience.say(f"Failed: {fault.message}")
        return EnvironmentFailed(fault.message, fault.advice, fault.metadata)

    async def _with_newest(self, fault: Fault, wish: Wish) -> Fault:
        """Names the newest version of the package, if that can be found out quickly."""
        name = fault.unknown_release
        try:
            async with asyncio.timeout(NEWEST_LIMIT_S):
                outcome = await self._uv.run(
                    *("pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--no-build"),
                    *("--python", wish.python.path, *wish.options, "-"),
                    given=f"{name}\n",
                )
        except TimeoutError:
            return fault
        newest = outcome.answer.decode("utf-8", "replace").strip().partition("==")[2]
        if outcome.returncode != 0 or not newest:
            return fault
        return Fault(
            f"{fault.message}; the newest is {newest}",
            f"name a version that exists, such as {name}=={newest}",
            {**fault.metadata, "newest": newest},
        )


class Steps:
    """Reads from an installer's output what it does now, for the status line.

    Args:
        packages: what it installs, in words.
    """

    def __init__(self, packages: str, audience: Audience) -> None:
        self._packages = packages
        self._audience = audience
        self._line = b""

    def hear(self, data: bytes) -> None:
        """Passes output on to the log, and shows the last step that it names."""
        self._audience.write(data)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            step = line.decode("utf-8", "replace").strip()
            if step.startswith(_LONG_STEPS):
                self._audience.progress(f"installing {self._packages}: {step}")
            elif step.startswith("Prepared"):
                self._audience.progress(f"installing {self._packages}")


def index_options(pip: PipPackages, environ: Mapping[str, str]) -> tuple[str, ...]:
    """uv's options for a specification's: where packages come from, and whether previews count.

    Raises EnvironmentFailed for an option that is not served.
    """
    once: dict[str, list[str]] = {}
    many: list[str] = []
    if environ.get("PIP_NO_INDEX", "").lower() in _TRUE:  # uv has no variable for it
        once["--no-index"] = ["--no-index"]
    for option in dict.fromkeys(pip.index_options):
        name, _, value = option.partition("=")
        if name == "--index-url" and value:
            once[name] = [name, value]  # the last one counts, as with pip
        elif name in ("--extra-index-url", "--find-links") and value:
            many += [name, value]
        elif option == "--no-index":
            once[option] = [option]
        elif option == "--pre":
            once[option] = ["--prerelease", "allow"]
        else:
            raise EnvironmentFailed(
                f"the pip option {shown(option)} is not served",
                "served are --index-url=, --extra-index-url=, --find-links=, --pre and --no-index",
                {"option": shown(option)},
            )
    has_extra = "--extra-index-url" in many or environ.get("PIP_EXTRA_INDEX_URL")
    if has_extra and not environ.get("UV_INDEX_STRATEGY"):
        # As pip does, which these options were written for: the best version of all indexes
        # counts. uv's own rule takes the first index that has a package in any version, so that
        # PyTorch's index hides most versions of numpy.
        many += ["--index-strategy", "unsafe-best-match"]
    return (*itertools.chain.from_iterable(once.values()), *many)


def refuse_options(pip: PipPackages) -> None:
    """Raises EnvironmentFailed for a requirement that uv would take for an option."""
    for line in (*pip.requirements, *pip.constraints):
        if line.lstrip().startswith("-"):
            raise EnvironmentFailed(
                f"{shown(line)} is no requirement",
                "name a package, such as name==1.2",
                {"requirement": shown(line)},
            )


@contextlib.contextmanager
def _constraints(pip: PipPackages) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    """uv's options for the constraints, and the descriptors that it has to inherit for them."""
    if not pip.constraints:
        yield (), ()
        return
    # A file without a name, of which nothing is left behind.
    with os.fdopen(os.memfd_create("constraints"), "w+b") as file:
        file.write("\n".join(pip.constraints).encode("utf-8", "surrogateescape") + b"\n")
        file.flush()
        yield ("-c", f"/proc/self/fd/{file.fileno()}"), (file.fileno(),)
