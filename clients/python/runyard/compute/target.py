"""ComputeTarget: a named place where runs execute."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runyard_contract.ids import ComputeName, check_compute_name
from runyard_contract.limits import PAGE_SIZE_MAX
from runyardpb.v1 import compute_pb2, compute_pb2_grpc

if TYPE_CHECKING:
    from runyard.workspace import Workspace

_KIND_NAMES = {
    compute_pb2.Compute.KIND_LOCAL: "local",
    compute_pb2.Compute.KIND_AGENT: "agent",
}


@dataclass(frozen=True, slots=True)
class ComputeNode:
    """A machine of a target: what it has and what runs hold of it (cores, bytes, whole GPUs)."""

    node_id: str
    hostname: str
    state: str
    slots: int
    slots_used: int
    cpus: float
    memory_bytes: int
    gpus: int
    cpus_used: float
    memory_bytes_used: int
    gpus_used: int
    platform: str
    agent_version: str
    job_account: str
    gpu_names: tuple[str, ...]
    last_seen_time: datetime | None


@dataclass(frozen=True, slots=True)
class ComputeStatus:
    """Whether a target can be used (Creating, Succeeded, Failed), its nodes and its runs."""

    provisioning_state: str
    errors: tuple[str, ...]
    nodes: tuple[ComputeNode, ...]
    queued_runs: int
    active_runs: int

    def serialize(self) -> dict[str, Any]:
        """The status as plain values, keys in camel case."""
        counts = {
            state: sum(node.state == state for node in self.nodes)
            for state in ("Idle", "Running", "Disconnected")
        }
        return {
            "provisioningState": self.provisioning_state,
            "errors": list(self.errors),
            "currentNodeCount": len(self.nodes),
            "nodeStateCounts": {
                f"{state.lower()}NodeCount": count for state, count in counts.items()
            },
            "queuedRuns": self.queued_runs,
            "activeRuns": self.active_runs,
        }


class ComputeTarget:
    """A compute target of a workspace, read now.

    Args:
        workspace: where it belongs.
        name: its name; `local` is always there on an embedded daemon.

    Raises ComputeNotFound with the nearest name.
    """

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._workspace = workspace
        self._name = check_compute_name(name)
        self._compute = self._read()

    @classmethod
    def _from_message(cls, workspace: Workspace, compute: compute_pb2.Compute) -> ComputeTarget:
        """A target that was read in a listing."""
        target = cls.__new__(cls)
        target._workspace = workspace
        target._name = ComputeName.parse(compute.name).compute
        target._compute = compute
        return target

    @classmethod
    def list(cls, workspace: Workspace) -> builtins.list[ComputeTarget]:
        """All compute targets of a workspace, by name."""
        request = compute_pb2.ListComputesRequest(
            parent=f"workspaces/{workspace.name}", page_size=PAGE_SIZE_MAX
        )
        found: builtins.list[ComputeTarget] = []
        while True:
            answer = workspace.connection.unary(
                compute_pb2_grpc.ComputeServiceStub, lambda stub: stub.ListComputes, request
            )
            found += [cls._from_message(workspace, compute) for compute in answer.computes]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def _read(self) -> compute_pb2.Compute:
        """The target as it is now."""
        name = ComputeName(self._workspace.name, self._name)
        answer = self._workspace.connection.unary(
            compute_pb2_grpc.ComputeServiceStub,
            lambda stub: stub.GetCompute,
            compute_pb2.GetComputeRequest(name=str(name)),
        )
        return answer.compute

    @property
    def workspace(self) -> Workspace:
        """The workspace."""
        return self._workspace

    @property
    def name(self) -> str:
        """The target's name."""
        return self._name

    @property
    def type(self) -> str:
        """The kind of target: "local" or "agent"."""
        return _KIND_NAMES.get(self._compute.kind, f"kind {self._compute.kind}")

    @property
    def provisioning_state(self) -> str:
        """Creating, Succeeded or Failed, as last read."""
        return _state_word(compute_pb2.Compute.State, self._compute.state)

    @property
    def provisioning_errors(self) -> builtins.list[str]:
        """Why it is not ready, as last read."""
        return builtins.list(self._compute.errors)

    @property
    def created_on(self) -> datetime | None:
        """When it was made, in UTC."""
        return _time(self._compute, "create_time")

    @property
    def modified_on(self) -> datetime | None:
        """When it was last changed, in UTC."""
        return _time(self._compute, "update_time")

    def get_status(self) -> ComputeStatus:
        """The target's status, read now."""
        self._compute = self._read()
        compute = self._compute
        return ComputeStatus(
            provisioning_state=self.provisioning_state,
            errors=tuple(compute.errors),
            nodes=tuple(_node(node) for node in compute.nodes),
            queued_runs=compute.queued_runs,
            active_runs=compute.active_runs,
        )

    def __repr__(self) -> str:
        return f"ComputeTarget(name={self._name!r}, type={self.type!r})"


def _node(node: compute_pb2.Node) -> ComputeNode:
    """A node of a target."""
    return ComputeNode(
        node_id=node.node_id,
        hostname=node.hostname,
        state=_state_word(compute_pb2.Node.State, node.state),
        slots=node.slots,
        slots_used=node.slots_used,
        cpus=node.capacity.cpu_millicores / 1000,
        memory_bytes=node.capacity.memory_bytes,
        gpus=node.capacity.gpu_count,
        cpus_used=node.used.cpu_millicores / 1000,
        memory_bytes_used=node.used.memory_bytes,
        gpus_used=node.used.gpu_count,
        platform=node.platform,
        agent_version=node.agent_version,
        job_account=node.job_account,
        gpu_names=tuple(node.gpu_names),
        last_seen_time=_time(node, "last_seen_time"),
    )


def _state_word(enum: Any, number: int) -> str:
    """A state as people read it: "Succeeded"; the number where this version does not know it."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return f"state {number}"
    return name.removeprefix("STATE_").replace("_", " ").title().replace(" ", "")


def _time(message: Any, field: str) -> datetime | None:
    """A point in time, None where it is not set."""
    if not message.HasField(field):
        return None
    found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return found
