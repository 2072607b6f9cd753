"""Who solves and installs conda packages: the node's own program, else rattler, which is built in.

A lock is one and the same whoever made it, and either installs it. What the node's own can't do,
for whatever cause, the built-in does, or says what is wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from runyard_agent.environments.conda_lock import CondaLock
from runyard_agent.environments.conda_programs import CondaProgram, ProgramSearch
from runyard_agent.environments.own_conda import Hear, NotDone, OwnConda
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.rattler_calls import Mirrors, Rattler
from runyard_agent.environments.virtual_packages import unmet
from runyard_contract.environment_spec import channel_fault, match_spec_fault
from runyard_contract.paths import shown


class CondaSolvers:
    """Solves and installs as `Rattler` does.

    Args:
        environ: the agent's variables.
        mirrors: where channels are read instead.
        setting: "auto": the node's own program where it has one; "builtin": never; or its path.
    """

    def __init__(self, environ: Mapping[str, str], mirrors: Mirrors | None, setting: str) -> None:
        self._environ = environ
        self._mirrors = mirrors or {}
        self._search = ProgramSearch(setting, environ)
        self._rattler = Rattler(environ, mirrors)

    async def solve(
        self,
        specs: Sequence[str],
        channels: Sequence[str],
        hear: Hear,
        *,
        is_refresh: bool = False,
    ) -> CondaLock:
        """See Rattler.solve. What is no name of a package or channel reaches no program."""
        for fault in (*map(match_spec_fault, specs), *map(channel_fault, channels)):
            if fault:
                raise EnvironmentFailed(
                    f"conda can't read what is asked for: {fault}",
                    "write packages as name, name=1.2 or name>=1.2,<2, and channels as a name or"
                    " URL",
                    {"fault": fault},
                )
        program = await self._program(hear)
        if program is not None:
            _say(hear, f"Solving with the node's own {shown(program.words)}.")
            try:
                return await self._own(program).solve(specs, channels, hear, is_refresh=is_refresh)
            except NotDone as error:
                self._give_up(program, error, hear)
        return await self._rattler.solve(specs, channels, hear, is_refresh=is_refresh)

    async def install(
        self,
        lock: CondaLock,
        prefix: Path,
        hear: Hear,
        kept_fds: Sequence[int],
        packages: Path | None = None,
    ) -> None:
        """See Rattler.install."""
        program = await self._program(hear)
        # An explicit list is installed without a look at what the node has.
        if program is not None and not unmet(lock.needs):
            _say(hear, f"Installing with the node's own {shown(program.words)}.")
            try:
                await self._own(program).install(lock, prefix, hear, kept_fds, packages)
                return
            except NotDone as error:
                self._give_up(program, error, hear)
        await self._rattler.install(lock, prefix, hear, kept_fds, packages)

    async def _program(self, hear: Hear) -> CondaProgram | None:
        program, unfit = await self._search.find()
        for one in unfit:
            _say(hear, f"The node's own {shown(one.path)} is not used: it {one.why}.")
        return program

    def _own(self, program: CondaProgram) -> OwnConda:
        return OwnConda(program, self._environ, self._mirrors)

    def _give_up(self, program: CondaProgram, error: NotDone, hear: Hear) -> None:
        """Leaves the work to the built-in, where there is one."""
        if importlib.util.find_spec("rattler") is None:
            raise EnvironmentFailed(
                f"the node's own {program.words} failed: {error}",
                "see logs/environment.txt; `pip install 'runyard[conda]'` into the environment that"
                " runyard is installed in adds a solver that explains more",
                {"program": program.path},
            ) from None
        _say(hear, f"It could not: {shown(str(error))}. Going on with the built-in solver.")


def _say(hear: Hear, line: str) -> None:
    hear(line.encode("utf-8", "backslashreplace") + b"\n")
