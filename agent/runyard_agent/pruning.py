"""Removing built environments because somebody asks for it."""

from __future__ import annotations

import asyncio

from runyard_agent import journal
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.outbox import Outbox, to_build
from runyardpb.agent.v1 import agent_pb2 as pb


class Pruning:
    """Does what the daemon asks for, in tasks of `group`, and answers."""

    def __init__(
        self, environments: EnvironmentCache, outbox: Outbox, group: asyncio.TaskGroup
    ) -> None:
        self._environments = environments
        self._outbox = outbox
        self._group = group

    def asked(self, prune: pb.PruneBuilt) -> None:
        """The daemon asks."""
        self._group.create_task(self._prune(prune), name="prune environments")

    async def _prune(self, prune: pb.PruneBuilt) -> None:
        answer = pb.BuiltPruned(request_id=prune.request_id)
        older_than_ns = (
            max(0, prune.older_than.ToNanoseconds()) if prune.HasField("older_than") else None
        )
        bound_bytes = max(0, prune.max_size_bytes) if prune.HasField("max_size_bytes") else None
        try:
            pruned = await self._environments.prune(
                older_than_ns, bound_bytes, is_dry_run=prune.is_dry_run
            )
        except OSError as error:
            journal.failure("environments_not_pruned", error, folder=str(self._environments.root))
            answer.error = f"its built environments can't be read: {error}"
        else:
            answer.builds.extend(map(to_build, pruned.removed))
            answer.left_bytes = sum(one.record.size_bytes for one in pruned.left)
            answer.left_count = len(pruned.left)
            answer.in_use_count = pruned.in_use
        self._outbox.answer(answer)
