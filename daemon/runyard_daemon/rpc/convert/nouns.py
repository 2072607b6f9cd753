"""Workspaces, experiments, targets and environments."""

from __future__ import annotations

from collections.abc import Sequence

from runyard_daemon.control.live import Live
from runyard_daemon.control.reported import EnvironmentBuild
from runyard_daemon.core.types import NO_RESOURCES, NodeId
from runyard_daemon.rpc.convert.specs import from_resources
from runyard_daemon.rpc.convert.times import to_timestamp
from runyard_daemon.store.computes import ComputeRecord, NodeRecord
from runyard_daemon.store.environments import EnvironmentRecord, LockRecord, SealedRecord
from runyard_daemon.store.experiments import ExperimentRecord
from runyard_daemon.store.workspaces import WorkspaceRecord
from runyardpb.v1 import compute_pb2, environments_pb2, experiments_pb2, workspaces_pb2


def to_workspace(record: WorkspaceRecord) -> workspaces_pb2.Workspace:
    """A workspace."""
    return workspaces_pb2.Workspace(
        name=f"workspaces/{record.name}", create_time=to_timestamp(record.create_time_us)
    )


def to_experiment(record: ExperimentRecord) -> experiments_pb2.Experiment:
    """An experiment."""
    return experiments_pb2.Experiment(
        name=f"workspaces/{record.workspace}/experiments/{record.name}",
        create_time=to_timestamp(record.create_time_us),
        last_run_time=to_timestamp(record.last_run_time_us),
        run_count=record.run_count,
    )


def to_environment_message(
    record: EnvironmentRecord, locks: Sequence[LockRecord], live: Live
) -> environments_pb2.Environment:
    """A version of an environment with its locks, and where they are built now."""
    builds = [to_build_message(*found) for lock in locks for found in live.builds_of(lock.hash)]
    return environments_pb2.Environment(
        name=(
            f"workspaces/{record.workspace}/environments/{record.name}/versions/{record.version}"
        ),
        spec=environments_pb2.EnvironmentSpec.FromString(record.spec),
        create_time=to_timestamp(record.create_time_us),
        spec_hash=record.spec_hash,
        locks=[to_lock(lock) for lock in locks],
        version=record.version,
        builds=sorted(builds, key=lambda build: (build.node, build.lock_hash, build.key)),
    )


def to_lock(lock: LockRecord) -> environments_pb2.EnvironmentLock:
    """What an environment was resolved to, and what is sealed of it."""
    return environments_pb2.EnvironmentLock(
        platform=lock.platform,
        text=lock.text,
        hash=lock.hash,
        create_time=to_timestamp(lock.create_time_us),
        sealed=to_sealed(lock.sealed) if lock.sealed is not None else None,
    )


def to_sealed(record: SealedRecord) -> environments_pb2.SealedEnvironment:
    """A built environment as nodes fetch it."""
    return environments_pb2.SealedEnvironment(
        root_digest=bytes.fromhex(record.digest),
        file_count=record.file_count,
        size_bytes=record.size_bytes,
        create_time=to_timestamp(record.create_time_us),
        node=record.node,
    )


def to_build_message(node: str, build: EnvironmentBuild) -> environments_pb2.EnvironmentBuild:
    """An environment as it is built on a node."""
    return environments_pb2.EnvironmentBuild(
        lock_hash=build.lock_hash,
        key=build.key,
        node=node,
        size_bytes=build.size_bytes,
        create_time=to_timestamp(build.create_time_us),
        last_use_time=to_timestamp(build.last_use_time_us),
        hits=build.hits,
    )


def to_compute(
    record: ComputeRecord, nodes: Sequence[NodeRecord], live: Live
) -> compute_pb2.Compute:
    """A target with its nodes as they are now."""
    messages = [_to_node(node, live) for node in nodes]
    return compute_pb2.Compute(
        name=f"workspaces/{record.workspace}/computes/{record.name}",
        kind=compute_pb2.Compute.Kind.Value(f"KIND_{record.kind}"),
        state=compute_pb2.Compute.State.Value(f"STATE_{record.state}"),
        errors=record.errors,
        create_time=to_timestamp(record.create_time_us),
        update_time=to_timestamp(record.update_time_us),
        nodes=messages,
        queued_runs=live.board.waiting_count(record.name),
        active_runs=sum(node.slots_used for node in messages),
    )


def _to_node(record: NodeRecord, live: Live) -> compute_pb2.Node:
    node_id = NodeId(f"{record.compute}/{record.node_id}")
    held = live.board.held_on(node_id)
    is_connected = node_id in live.sessions
    state = compute_pb2.Node.STATE_DISCONNECTED
    if is_connected:
        state = compute_pb2.Node.STATE_RUNNING if held else compute_pb2.Node.STATE_IDLE
    return compute_pb2.Node(
        node_id=record.node_id,
        hostname=record.hostname,
        state=state,
        slots=record.slots,
        slots_used=len(held),
        capacity=from_resources(record.capacity),
        used=from_resources(sum(held.values(), NO_RESOURCES)),
        platform=record.platform,
        agent_version=record.agent_version,
        last_seen_time=to_timestamp(live.now_us() if is_connected else record.last_seen_us),
        job_account=record.job_account,
        gpu_names=record.gpu_names,
    )
