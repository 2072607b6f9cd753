"""Who may call what: one table of all methods.

What is not in the table is refused to everybody: a method that was added without a rule serves
nobody but the daemon's own user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Role(Enum):
    """What a caller is."""

    OWNER = "owner"
    """The daemon's own user, at its Unix socket, and that user's local agent."""
    ADMIN = "admin"
    CONTRIBUTOR = "contributor"
    READER = "reader"
    NODE = "node"
    """A machine that joined, by its certificate."""
    JOINER = "joiner"
    """A machine that is about to join, by a join token."""
    NOBODY = "nobody"
    """Without credentials."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    `name` is what history says. `workspace`, `compute` and `node` are those of a machine, `token`
    is the id of the token that was shown.
    """

    role: Role
    name: str
    workspace: str = ""
    compute: str = ""
    node: str = ""
    token: str = ""


_ADMINS: Final = frozenset({Role.ADMIN})
_WRITERS: Final = _ADMINS | {Role.CONTRIBUTOR}
_READERS: Final = _WRITERS | {Role.READER}
_NODES: Final = frozenset({Role.NODE})
_JOINERS: Final = frozenset({Role.JOINER})

RULES: Final[Mapping[str, frozenset[Role]]] = {
    "RunService/CreateRun": _WRITERS,
    "RunService/BatchCreateRuns": _WRITERS,
    "RunService/GetRun": _READERS,
    "RunService/ListRuns": _READERS,
    "RunService/UpdateRun": _WRITERS,
    "RunService/CancelRun": _WRITERS,
    "RunService/WatchRuns": _READERS,
    "RunService/FollowRun": _READERS,
    "RunService/ExplainRun": _READERS,
    "RunService/ListRunFiles": _READERS,
    "RunService/ReadRunFile": _READERS,
    "RunService/AddRunFiles": _WRITERS,
    "RunService/CollectWorkdir": _WRITERS,
    "RunService/DeleteRun": _WRITERS,
    "RunService/PruneRuns": _ADMINS,
    "SnapshotService/FindMissingBlobs": _WRITERS | _NODES,
    "SnapshotService/UploadBlobs": _WRITERS | _NODES,
    "SnapshotService/ReadBlobs": _WRITERS | _NODES,
    "SnapshotService/CreateSnapshot": _WRITERS,
    "SnapshotService/UploadTree": _WRITERS,
    "SnapshotService/GetSnapshot": _READERS,
    "LogService/ReadLog": _READERS,
    "MetricService/ListMetrics": _READERS,
    "MetricService/ReadMetricPoints": _READERS,
    "WorkspaceService/GetWorkspace": _READERS,
    "WorkspaceService/ListWorkspaces": _READERS,
    "ExperimentService/GetExperiment": _READERS,
    "ExperimentService/ListExperiments": _READERS,
    "ComputeService/GetCompute": _READERS,
    "ComputeService/ListComputes": _READERS,
    "EnvironmentService/CreateEnvironment": _WRITERS,
    "EnvironmentService/GetEnvironment": _READERS,
    "EnvironmentService/ListEnvironments": _READERS,
    "EnvironmentService/GetEnvironmentLock": _READERS,
    "EnvironmentService/ExportEnvironment": _READERS,
    "EnvironmentService/ImportEnvironment": _WRITERS,
    "EnvironmentService/PruneEnvironments": _ADMINS,
    "AgentService/Session": _NODES,
    "AgentService/AppendFiles": _NODES,
    "AgentService/RegisterFiles": _NODES,
    "AgentService/KeepLock": _NODES,
    "AgentService/KeepSealed": _NODES,
    "AgentService/RenewCertificate": _NODES,
    "AgentService/Leave": _NODES,
    "AgentService/Enroll": _JOINERS,
    "AccessService/GetCaller": _READERS | _NODES,
    "AccessService/CreateToken": _ADMINS,
    "AccessService/ListTokens": _ADMINS,
    "AccessService/RevokeToken": _ADMINS,
    "Health/Check": _READERS | _NODES,
    "Health/Watch": _READERS | _NODES,
    "ServerReflection/ServerReflectionInfo": _READERS,
    "AdminService/GetServerInfo": _READERS,
    "AdminService/GetMetrics": _ADMINS,
    "AdminService/StopServer": _ADMINS,
    "AdminService/BackUpServer": _ADMINS,
    "AdminService/CollectGarbage": _ADMINS,
}
"""Roles by method, as "Service/Method". The owner may all."""


def may(caller: Caller, method: str) -> bool:
    """Whether a caller may call a method, such as "RunService/CreateRun"."""
    if caller.role is Role.OWNER:
        return True
    return caller.role in RULES.get(method, ())
