"""EnvironmentService."""

from __future__ import annotations

from runyard_contract.environment_spec import packages_hash, spec_hash
from runyard_contract.errors import EnvironmentNotFound, SpecInvalid
from runyard_contract.ids import WorkspaceName, check_environment_name
from runyard_daemon.control import catalog
from runyard_daemon.control.environment_rules import (
    BACKENDS,
    environment_violations,
    variable_violations,
)
from runyard_daemon.control.live import Live
from runyard_daemon.control.pruning import BuiltPruner
from runyard_daemon.rpc.convert.nouns import to_environment_message, to_lock_message
from runyard_daemon.rpc.convert.specs import parse_environment_name, to_environment
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.rpc.prune_environments import prune_environments
from runyard_daemon.store import Connection, environments
from runyard_daemon.store.environments import EnvironmentRecord, LockRecord
from runyard_daemon.store.requests import request_key
from runyardpb.v1 import environments_pb2 as pb
from runyardpb.v1.environments_pb2_grpc import EnvironmentServiceServicer

Found = tuple[EnvironmentRecord, list[LockRecord]]


class EnvironmentService(EnvironmentServiceServicer):
    """Keeps named, versioned environments."""

    def __init__(self, live: Live, pager: Pager, principal: str, pruner: BuiltPruner) -> None:
        self._live = live
        self._pager = pager
        self._principal = principal
        self._pruner = pruner

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Context
    ) -> pb.CreateEnvironmentResponse:
        """Stores an environment under a name; the same content is the same version."""
        if request.request_id:
            # The effect is idempotent by content; the id is only checked for its form.
            request_key(self._principal, "CreateEnvironment", request.request_id)
        parent = WorkspaceName.parse(request.parent).workspace
        name = check_environment_name(request.environment_id)
        environment = to_environment(request.spec)
        if environment is None:
            raise SpecInvalid(violations=[("spec", f"names no backend; set {BACKENDS}")])
        variables = tuple((one.name, one.value) for one in request.spec.variables)
        faults = [
            *environment_violations("spec", environment),
            *variable_violations("spec.variables", variables),
        ]
        if faults:
            raise SpecInvalid(violations=faults)

        def write(conn: Connection) -> Found:
            workspace = catalog.workspace(conn, parent).name
            data = request.spec.SerializeToString(deterministic=True)
            hashed = spec_hash(request.spec)
            kept = environments.put(conn, workspace, name, hashed, data, self._live.now_us())
            return _with_locks(conn, kept)

        found = await self._live.store.write(write)
        return pb.CreateEnvironmentResponse(environment=to_environment_message(*found, self._live))

    async def GetEnvironment(
        self, request: pb.GetEnvironmentRequest, context: Context
    ) -> pb.GetEnvironmentResponse:
        """One version of an environment."""
        parent, name, version = parse_environment_name(request.name)

        def look(conn: Connection) -> Found:
            workspace = catalog.workspace(conn, parent).name
            found = catalog.environment(conn, workspace, name, version)
            return _with_locks(conn, found)

        found = await self._live.store.read(look)
        return pb.GetEnvironmentResponse(environment=to_environment_message(*found, self._live))

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        """A page of environments by name, the newest version of each."""
        page = self._pager.read(request)
        after = str(page.after[0]) if page.after else ""
        parent = WorkspaceName.parse(request.parent).workspace

        def look(conn: Connection) -> list[Found]:
            workspace = catalog.workspace(conn, parent).name
            rows = environments.page(conn, workspace, after, page.size + 1)
            return [_with_locks(conn, row) for row in rows]

        rows = await self._live.store.read(look)
        shown, token = self._pager.cut(page, rows, [(row.name,) for row, _ in rows])
        return pb.ListEnvironmentsResponse(
            environments=[to_environment_message(*found, self._live) for found in shown],
            next_page_token=token,
        )

    async def GetEnvironmentLock(
        self, request: pb.GetEnvironmentLockRequest, context: Context
    ) -> pb.GetEnvironmentLockResponse:
        """A lock by its hash, also one that another has taken the place of."""
        found = await self._live.store.read(
            lambda conn: environments.lock_of_hash(conn, request.hash)
        )
        if found is None:
            raise EnvironmentNotFound(
                f"no environment has or had the lock {request.hash[:64]!a}",
                hint="take the hash of the property runyard.lock of a run",
                hash=request.hash[:64],
            )
        return pb.GetEnvironmentLockResponse(lock=to_lock_message(found))

    async def PruneEnvironments(  # type: ignore[override]  # a coroutine that uses write
        self,
        request: pb.PruneEnvironmentsRequest,
        context: Writable[pb.PruneEnvironmentsResponse],
    ) -> None:
        """Built environments of nodes; one answer a node, as they come."""
        await prune_environments(context, self._live, self._pruner, request)


def _with_locks(conn: Connection, record: EnvironmentRecord) -> Found:
    """A version of an environment with all that was resolved for it."""
    resolved = packages_hash(pb.EnvironmentSpec.FromString(record.spec))
    return record, environments.locks(conn, resolved)
