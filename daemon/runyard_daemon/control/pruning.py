"""Removing built environments on nodes."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.errors import NodeUnreachable
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import Prune
from runyard_daemon.control.questions import Questions
from runyard_daemon.control.reported import EnvironmentBuild
from runyard_daemon.core.types import Node

PRUNE_S = 600.0
"""How long a node may take to remove what is to go."""


@dataclass(frozen=True, slots=True)
class BuiltPruned:
    """A node's answer."""

    builds: tuple[EnvironmentBuild, ...] = ()
    """What was removed, or would be, in that order."""
    left_bytes: int = 0
    left_count: int = 0
    in_use_count: int = 0
    error: str = ""
    """Why not; empty: it worked."""
    is_away: bool = False
    """It is not connected and was not asked."""


@dataclass(frozen=True, slots=True)
class PrunePolicy:
    """What is to go of what no run has or waits for; with neither all of it."""

    older_than_s: float | None
    """Last used longer ago."""
    max_size_bytes: int | None
    """Until the rest is within, the least recently used first."""
    is_dry_run: bool


class BuiltPruner:
    """Asks agents to remove built environments."""

    def __init__(self, live: Live, questions: Questions) -> None:
        self._live = live
        self._questions = questions

    def nodes(self, compute: str) -> list[Node]:
        """The nodes of a target, with "" all, by their names."""
        found = (node for node in self._live.nodes.values() if compute in ("", node.compute))
        return sorted(found, key=lambda node: node.name)

    async def prune(self, node: Node, policy: PrunePolicy) -> BuiltPruned:
        """Has one node remove what is to go there."""
        if node.id not in self._live.sessions:
            why = node.reason or "its agent is not connected"
            return BuiltPruned(error=f"{node.name} was not asked: {why}", is_away=True)
        try:
            return await self._questions.ask(
                node.id,
                lambda request_id: Prune(
                    request_id, policy.older_than_s, policy.max_size_bytes, policy.is_dry_run
                ),
                BuiltPruned,
                PRUNE_S,
            )
        except NodeUnreachable as error:
            return BuiltPruned(error=error.message)
