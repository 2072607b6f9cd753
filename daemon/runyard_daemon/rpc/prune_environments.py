"""PruneEnvironments: built environments removed on nodes, all at the same time."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import WorkspaceName
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.control.pruning import BuiltPruner, PrunePolicy
from runyard_daemon.core.types import Node
from runyard_daemon.rpc.convert.nouns import to_build_message
from runyard_daemon.rpc.convert.times import from_duration
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.store import Connection
from runyardpb.v1 import environments_pb2 as pb


async def prune_environments(
    context: Writable[pb.PruneEnvironmentsResponse],
    live: Live,
    pruner: BuiltPruner,
    request: pb.PruneEnvironmentsRequest,
) -> None:
    """Serves one call."""
    parent = WorkspaceName.parse(request.parent).workspace
    policy = _policy(request)

    def look(conn: Connection) -> str:
        workspace = catalog.workspace(conn, parent).name
        if not request.compute_target:
            return ""
        return catalog.compute(conn, workspace, request.compute_target).name

    compute = await live.store.read(look)
    writing = asyncio.Lock()

    async def one(node: Node) -> None:
        pruned = await pruner.prune(node, policy)
        answer = pb.PruneEnvironmentsResponse(
            node=node.name,
            builds=[to_build_message(node.name, build) for build in pruned.builds],
            left_bytes=pruned.left_bytes,
            left_count=pruned.left_count,
            in_use_count=pruned.in_use_count,
            error=pruned.error,
            is_away=pruned.is_away,
        )
        async with writing:
            await context.write(answer)

    async with asyncio.TaskGroup() as group:
        for node in pruner.nodes(compute):
            group.create_task(one(node), name=f"prune {node.name}")


def _policy(request: pb.PruneEnvironmentsRequest) -> PrunePolicy:
    """What is asked for. Raises SpecInvalid, with every field at fault."""
    older_than_s = from_duration(request.older_than) if request.HasField("older_than") else None
    max_size_bytes = request.max_size_bytes if request.HasField("max_size_bytes") else None
    faults = [
        (name, "is negative")
        for name, value in (("older_than", older_than_s), ("max_size_bytes", max_size_bytes))
        if value is not None and value < 0
    ]
    if faults:
        raise SpecInvalid(violations=faults)
    return PrunePolicy(older_than_s, max_size_bytes, request.dry_run)
