"""Removing built environments from nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runyard.workspace import Workspace
    from runyardpb.v1 import environments_pb2


@dataclass(frozen=True, slots=True)
class PrunedEnvironment:
    """A built environment that was removed, or would be.

    lock_hash: names it, as `runyard environment show` does.
    size_bytes: of its files, or of the layers of its image.
    built_at, last_used_at: UTC, by the node's clock.
    hits: runs that were given it without building it.
    """

    lock_hash: str
    size_bytes: int
    built_at: datetime
    last_used_at: datetime
    hits: int


@dataclass(frozen=True, slots=True)
class PrunedNode:
    """One node's answer.

    node: such as "local/myhost".
    environments: what was removed, or would be; those that were used longest ago first.
    left_bytes, left_count, in_use_count: what is left, and how many of it runs have or wait for.
    error: why nothing is known of the node; empty: it has answered.
    is_away: the node is not connected.
    """

    node: str
    environments: tuple[PrunedEnvironment, ...] = ()
    left_bytes: int = 0
    left_count: int = 0
    in_use_count: int = 0
    error: str = ""
    is_away: bool = False

    @property
    def freed_bytes(self) -> int:
        """What the environments take together."""
        return sum(one.size_bytes for one in self.environments)


def prune_environments(
    workspace: Workspace,
    compute_target: str | None,
    older_than_s: float | None,
    max_size_bytes: int | None,
    *,
    is_dry_run: bool,
) -> Iterator[PrunedNode]:
    """Has nodes remove built environments; gives their answers as they come."""
    from runyardpb.v1 import environments_pb2, environments_pb2_grpc

    request = environments_pb2.PruneEnvironmentsRequest(
        parent=f"workspaces/{workspace.name}",
        compute_target=compute_target or "",
        max_size_bytes=max_size_bytes,
        dry_run=is_dry_run,
    )
    if older_than_s is not None:
        request.older_than.FromMilliseconds(round(older_than_s * 1000))
    with workspace.connection.stream(
        environments_pb2_grpc.EnvironmentServiceStub, lambda stub: stub.PruneEnvironments, request
    ) as answers:
        for answer in answers:
            yield _node(answer)


def _node(answer: environments_pb2.PruneEnvironmentsResponse) -> PrunedNode:
    return PrunedNode(
        answer.node,
        tuple(
            PrunedEnvironment(
                build.lock_hash,
                build.size_bytes,
                build.create_time.ToDatetime(tzinfo=UTC),
                build.last_use_time.ToDatetime(tzinfo=UTC),
                build.hits,
            )
            for build in answer.builds
        ),
        answer.left_bytes,
        answer.left_count,
        answer.in_use_count,
        answer.error,
        answer.is_away,
    )
