"""Which builders this agent has: the built-in ones, then those that other distributions bring.

A distribution brings one by an entry point of the group `runyard.environment_builders`. Its name is
the kind (a field of `EnvironmentSpec.backend`), its object takes a `BuilderContext` and gives an
`EnvironmentBuilder`. Built-in kinds can't be replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from runyard_agent import journal
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.conda_programs import AUTO
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.pip import PipBuilder
from runyard_agent.environments.protocol import EnvironmentBuilder
from runyard_agent.environments.sealed import SealedSource
from runyard_agent.environments.user_managed import UserManagedBuilder

GROUP = "runyard.environment_builders"


@dataclass(frozen=True, slots=True)
class BuilderContext:
    """What a builder is made with.

    Args:
        cache: where environments are built and found again. Shared by all kinds.
        environ: the agent's variables. Default: those of this process.
        channel_mirrors: where conda channels are read instead, by channel.
        conda: "auto": conda packages by the node's own program where it has one; "builtin": never;
            or the program's path.
        sealed: where environments that other nodes have built are fetched from. None: nowhere.
        is_offline: nothing is resolved, downloaded or built: what is not here is fetched sealed.
    """

    cache: EnvironmentCache
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    channel_mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    conda: str = AUTO
    sealed: SealedSource | None = None
    is_offline: bool = False


BuilderFactory = Callable[[BuilderContext], EnvironmentBuilder]


def _user_managed(context: BuilderContext) -> EnvironmentBuilder:
    search_path = context.environ.get("PATH")
    return UserManagedBuilder(os.fsencode(search_path) if search_path else None)


def _pip(context: BuilderContext) -> EnvironmentBuilder:
    return PipBuilder(context.cache, context.environ, context.sealed, is_offline=context.is_offline)


def _conda(context: BuilderContext) -> EnvironmentBuilder:
    return CondaBuilder(
        context.cache,
        context.environ,
        context.channel_mirrors,
        context.conda,
        context.sealed,
        is_offline=context.is_offline,
    )


def _docker(context: BuilderContext) -> EnvironmentBuilder:
    return DockerBuilder(
        context.cache, context.environ, context.channel_mirrors, is_offline=context.is_offline
    )


BUILT_IN: Mapping[str, BuilderFactory] = {
    "user_managed": _user_managed,
    "pip": _pip,
    "conda": _conda,
    "docker": _docker,
}


def load_builders(
    context: BuilderContext, found: Iterable[EntryPoint] | None = None
) -> dict[str, EnvironmentBuilder]:
    """Makes one builder of each kind, by kind.

    A plug-in that can't be loaded is left out and named in the agent's log: it must not keep the
    agent from running what needs none.

    Args:
        context: given to each.
        found: entry points. Default: those of the distributions installed here.
    """
    builders = {kind: make(context) for kind, make in BUILT_IN.items()}
    for entry in entry_points(group=GROUP) if found is None else found:
        if entry.name in builders:
            journal.warning(
                "builder_left_out", kind=entry.name, of=entry.value, why="kind is taken"
            )
            continue
        try:
            builder = entry.load()(context)
        except Exception as error:  # the code of others
            journal.failure("builder_left_out", error, kind=entry.name, of=entry.value)
            continue
        builders[entry.name] = builder
    return builders
