"""PruneRuns: a removal by policy, told as it goes."""

from __future__ import annotations

from runyard_contract.errors import SpecInvalid
from runyard_daemon.control.removal import Remover
from runyard_daemon.core.retention import RetentionPolicy
from runyard_daemon.rpc.convert.runs import from_state
from runyard_daemon.rpc.convert.times import from_duration
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.lookup import ANY, split_parent
from runyardpb.v1 import runs_pb2 as pb


async def prune_runs(
    context: Writable[pb.PruneRunsResponse], remover: Remover, request: pb.PruneRunsRequest
) -> None:
    """Serves one call."""
    workspace, experiment = split_parent(request.parent)
    policy = _policy(request)
    async for progress in remover.prune(
        workspace, "" if experiment == ANY else experiment, policy, is_dry=request.dry_run
    ):
        await context.write(
            pb.PruneRunsResponse(
                chosen_runs=progress.chosen_runs,
                chosen_bytes=progress.chosen_bytes,
                removed_runs=progress.removed_runs,
                run_ids=progress.run_ids,
            )
        )


def _policy(request: pb.PruneRunsRequest) -> RetentionPolicy:
    """What is asked for. Raises SpecInvalid, with every field at fault."""
    states = [from_state(number) for number in request.states]
    faults = [
        (name, "is negative")
        for name, value in (
            ("older_than", from_duration(request.older_than)),
            ("keep_last", request.keep_last),
            ("max_size_bytes", request.max_size_bytes),
        )
        if value < 0
    ]
    if any(state is None or not state.is_final for state in states):
        faults.append(("states", "names a state that is not final: only ended runs are removed"))
    policy = RetentionPolicy(
        max_age_us=round(from_duration(request.older_than) * 1e6)
        if request.HasField("older_than")
        else None,
        max_size_bytes=request.max_size_bytes or None,
        keep_last=request.keep_last,
        states=frozenset(state for state in states if state is not None),
    )
    if not faults and not policy.has_reason:
        faults.append(("older_than", "give this, keep_last or max_size_bytes"))
    if faults:
        raise SpecInvalid(violations=faults)
    return policy
