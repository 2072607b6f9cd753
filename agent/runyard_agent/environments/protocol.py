"""The plug point of environments: what a builder is given, and what it gives or raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentLock, EnvironmentSpec

Progress = Callable[[str], None]
"""Told in a few words what is being done now, for people; an empty text clears it."""


@runtime_checkable
class TextSink(Protocol):
    """The attempt's `logs/environment.txt`: what a builder prints, shown live."""

    def write(self, data: bytes) -> None:
        """Appends bytes as they are. Only on the agent's event loop."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container image that a job is started in.

    Args:
        engine: path of the engine's socket on the node.
        image: id of the image, "sha256:…", which nobody can give to another one.
        shell: path of its sh. Empty: it has none, so that output comes from the engine's log.
        options: how jobs run in it; what is built of it no longer matters.
    """

    engine: str
    image: str
    shell: str
    options: DockerImage


@dataclass(frozen=True, slots=True)
class ProvidedEnvironment:
    """An environment that a job can be started in.

    Args:
        python: absolute path of its interpreter, as bytes of the node's file system (of the
            container's, if there is one; empty there: it has none). Its folder comes first on the
            job's PATH.
        env: variables that the job gets over those of its caller; such as VIRTUAL_ENV.
        lock: what was resolved, where this kind of environment has a lock. One that the daemon
            did not know yet is kept there, so that every node gets the same packages.
        container: where the job is to run. None: on the node itself.
        built_as: names it among what is built on this node. Empty: its lock's hash does.
    """

    python: bytes
    env: Mapping[bytes, bytes] = field(default_factory=dict)
    lock: EnvironmentLock | None = None
    container: Container | None = None
    built_as: str = ""

    @property
    def key(self) -> str | None:
        """What names it among what is built on this node; None for one that is not built."""
        return self.built_as or (self.lock.hash if self.lock is not None else None)


@dataclass(frozen=True, slots=True)
class BuildContext:
    """The files that a Dockerfile can copy.

    Args:
        folder: a run's snapshot, laid out.
        digest: of the snapshot; another one makes another image.
    """

    folder: str
    digest: str


class EnvironmentFailed(Exception):
    """The environment can't be provided, for a cause of the user's or the network's.

    Args:
        message: one sentence for people: what failed, of what.
        advice: what to try.
        metadata: the values that both show, such as "package" or "interpreter".
    """

    def __init__(self, message: str, advice: str = "", metadata: Mapping[str, str] | None = None):
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.metadata = dict(metadata or {})


class NotHere(EnvironmentFailed):
    """The environment is not on this node, which is offline and builds none.

    Args:
        why: such as "it is neither built here nor sealed".
        advice: what to try. Default: how to seal it elsewhere.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(
            f"this node is offline, and the environment is not on it: {why}",
            advice
            or "seal it on a node with a network: `runyard environment build NAME -t TARGET "
            "--seal`; to another daemon `runyard environment export NAME FILE` and "
            "`runyard environment import FILE` carry it",
            {"why": why},
        )

    def named(self, name: str) -> NotHere:
        """The same of a stored environment; empty: it has no name."""
        if not name:
            return self
        found = NotHere(self.metadata["why"], self.advice.replace("NAME", name))
        found.message = self.message.replace("the environment", f'the environment "{name}"', 1)
        found.metadata["environment"] = name
        return found


class EnvironmentBuilder(Protocol):
    """Provides environments of one kind. One instance serves all attempts of an agent.

    Calls for the same environment may come at the same time: it is built once, all wait for it.
    A build ends when nobody waits for it any more (all calls were cancelled), and leaves nothing
    behind that could be taken for an environment. What is built may be removed when no run has it
    or waits for it (`EnvironmentCache.uses`); who asks then has it built again.
    """

    @property
    def kind(self) -> str:
        """The name of the field of `EnvironmentSpec.backend` that it serves."""

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """Provides the environment, building it where it is not there yet.

        Args:
            spec: the specification, of this builder's kind.
            locks: those that the daemon keeps for it, of any platform and Python. The one for this
                platform and the environment's Python counts; without it one is resolved.
            log: where everything goes that building prints.
            progress: told what is being done.
            is_refresh: resolves anew, by what package indexes, channels and registries say now;
                `locks` and what is remembered of earlier answers don't count.

        Raises EnvironmentFailed. Anything else that it raises is a fault of the agent's own.
        """


@runtime_checkable
class TakesContext(Protocol):
    """A builder that may need the run's snapshot."""

    def needs_context(self, spec: EnvironmentSpec) -> bool:
        """Whether this specification can't be built without one."""

    def within(self, context: BuildContext) -> EnvironmentBuilder:
        """The builder for a run with this snapshot; without, it refuses what needs one."""
