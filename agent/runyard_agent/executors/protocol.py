"""The plug point of executors: start, follow, stop and adopt what a bundle describes.

The contract suite (tests/contract) is what an executor must pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

ExitRecord = Mapping[str, Any]
"""The content of exit.json."""


class ExecutorUnavailable(Exception):
    """Nothing can be executed now, or a run can't be ended: a sentence for people."""


class Follower(Protocol):
    """Who wants to hear of an execution. Called on the event loop; must not raise."""

    def started(self, at_unix_ns: int) -> None:
        """The program was started."""

    def output(self) -> None:
        """The bundle's spool files have grown."""

    def stuck(self, pids: tuple[int, ...]) -> None:
        """These processes resist SIGKILL; the end waits for them."""

    def disk_full(self) -> None:
        """Its output or its end can't be written, and waits; told again and again until it can."""

    def held_up(self, why: str) -> None:
        """Nobody has it any more, and it can't be ended now; that is tried again and again."""

    def exited(self, record: ExitRecord) -> None:
        """All processes are proven gone and the output is complete. The last word."""

    def refused(self, why: str) -> None:
        """It was not and will not be executed. The last word."""


class Executor(Protocol):
    """Executes bundles (their `spec.json`), named by their absolute paths.

    A bundle is executed at most once, whatever dies meanwhile, and its end is told only when none
    of its processes is left.
    """

    def reserve(self, bundle: str, *, may_follow: bool) -> bool:
        """Keeps room for a bundle that `start` will name; False where there is none now.

        `may_follow`: a place behind a run that has just begun is room enough. Give back what is
        not used with `release`.
        """

    def line_up(self, bundle: str) -> None:
        """Keeps the next room for a bundle that `start` will name: nobody who comes later is first.

        Give back what is not used with `release`.
        """

    def release(self, bundle: str) -> None:
        """Gives back a place, reserved or lined up for, that is not used; harmless otherwise."""

    async def start(self, bundle: str, follower: Follower) -> None:
        """Executes a bundle when it is its turn and there is room; returns when it was handed over.

        May be cancelled while it waits for room; then the bundle was not handed over. Raises
        ExecutorUnavailable.
        """

    async def adopt(self, bundle: str, follower: Follower) -> bool:
        """Follows an execution that an earlier agent has handed over; False: nobody has it."""

    async def recover(self, bundle: str) -> ExitRecord:
        """Ends what is left of an execution that nobody has, and tells its end.

        Raises ExecutorUnavailable where it can't be ended now.
        """

    def stop(self, bundle: str, by: str, grace_s: float) -> None:
        """Ends an execution: SIGTERM, after the grace period SIGKILL. `by`: "cancel", "timeout".

        One that waits to be started ends with the reason "never_started". By "returned" only such
        a one is ended: what was started goes on. Harmless when repeated.
        """

    def acknowledged(self, bundle: str, stdout_bytes: int, stderr_bytes: int) -> None:
        """These lengths of the spool are safe elsewhere: the job may write as much more."""
