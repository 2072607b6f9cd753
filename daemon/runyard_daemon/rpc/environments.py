"""EnvironmentService."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from runyard_contract.environment_spec import packages_hash, spec_hash
from runyard_contract.errors import (
    BlobCorrupt,
    BlobMissing,
    EnvironmentNotFound,
    SealedInvalid,
    SpecInvalid,
    StateNotAllowed,
)
from runyard_contract.ids import WorkspaceName, check_environment_name
from runyard_contract.paths import shown
from runyard_contract.sealed import SEALED_KINDS
from runyard_contract.version import build_id
from runyard_daemon.content import Content
from runyard_daemon.control import catalog
from runyard_daemon.control.callers import caller
from runyard_daemon.control.environment_file import (
    CheckedSpec,
    Exported,
    FileSpool,
    Importer,
    export,
)
from runyard_daemon.control.environment_rules import (
    BACKENDS,
    environment_violations,
    variable_violations,
)
from runyard_daemon.control.live import Live
from runyard_daemon.control.pruning import BuiltPruner
from runyard_daemon.rpc.convert.nouns import to_environment_message, to_lock
from runyard_daemon.rpc.convert.specs import parse_environment_name, to_environment
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.idle import Readable, Writable, incoming
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

    def __init__(
        self,
        live: Live,
        content: Content,
        pager: Pager,
        pruner: BuiltPruner,
        upload_idle_s: float,
    ) -> None:
        self._live = live
        self._content = content
        self._importer = Importer(live, content)
        self._upload_idle_s = upload_idle_s
        self._pager = pager
        self._pruner = pruner

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Context
    ) -> pb.CreateEnvironmentResponse:
        """Stores an environment under a name; the same content is the same version."""
        if request.request_id:
            # The effect is idempotent by content; the id is only checked for its form.
            request_key(caller().name, "CreateEnvironment", request.request_id)
        parent = WorkspaceName.parse(request.parent).workspace
        name = check_environment_name(request.environment_id)
        spec = _checked(request.spec)

        def write(conn: Connection) -> Found:
            workspace = catalog.workspace(conn, parent).name
            now_us = self._live.now_us()
            kept = environments.put(conn, workspace, name, spec.spec_hash, spec.data, now_us)
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

    async def ExportEnvironment(  # type: ignore[override]  # a coroutine that uses write
        self,
        request: pb.ExportEnvironmentRequest,
        context: Writable[pb.ExportEnvironmentResponse],
    ) -> None:
        """Streams an environment as a file."""
        parent, name, version = parse_environment_name(request.name)

        def look(conn: Connection) -> Found:
            workspace = catalog.workspace(conn, parent).name
            return _with_locks(conn, catalog.environment(conn, workspace, name, version))

        found, locks = await self._live.store.read(look)
        chosen = _to_export(found, locks, request.platform)
        pieces = export(self._live, self._content.store, found, chosen, build_id())
        async with contextlib.aclosing(pieces):
            try:
                async for piece in pieces:
                    await context.write(self._to_piece(piece, found, chosen))
            except (BlobMissing, BlobCorrupt) as error:
                raise StateNotAllowed(
                    f"what is sealed of environment {found.name} is damaged: {error.message}",
                    hint=f"seal it again with `runyard environment build {found.name} -t TARGET "
                    "--seal`, and check the disk",
                    environment=found.name,
                ) from error

    def _to_piece(
        self, piece: bytes | Exported, found: EnvironmentRecord, locks: Sequence[LockRecord]
    ) -> pb.ExportEnvironmentResponse:
        if isinstance(piece, bytes):
            return pb.ExportEnvironmentResponse(data=piece)
        summary = pb.EnvironmentFileSummary(
            digest=piece.digest,
            size_bytes=piece.size_bytes,
            environment=to_environment_message(found, locks, self._live),
        )
        return pb.ExportEnvironmentResponse(summary=summary)

    async def ImportEnvironment(
        self, requests: object, context: Readable[pb.ImportEnvironmentRequest]
    ) -> pb.ImportEnvironmentResponse:
        """Keeps an environment from such a file, all of it or nothing."""
        self._live.disk.check()
        file = FileSpool(self._content.spool_folder)
        with contextlib.ExitStack() as stack:
            stack.callback(file.close)
            first: pb.ImportEnvironmentRequest | None = None
            async for request in incoming(context, self._upload_idle_s):
                first = first or request
                await asyncio.to_thread(file.add, request.data)
            if first is None:
                raise SpecInvalid(violations=[("parent", "is missing")])
            workspace = WorkspaceName.parse(first.parent).workspace
            if first.environment_id:
                check_environment_name(first.environment_id)
            stack.pop_all()  # the import closes it, also when the caller is gone before its end
            taken = self._importer.take(file, workspace, first.environment_id, _checked_bytes)
        imported = await taken
        return pb.ImportEnvironmentResponse(
            environment=to_environment_message(imported.environment, imported.locks, self._live),
            replaced_platforms=imported.replaced,
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
        return pb.GetEnvironmentLockResponse(lock=to_lock(found))

    async def PruneEnvironments(  # type: ignore[override]  # a coroutine that uses write
        self,
        request: pb.PruneEnvironmentsRequest,
        context: Writable[pb.PruneEnvironmentsResponse],
    ) -> None:
        """Built environments of nodes; one answer a node, as they come."""
        await prune_environments(context, self._live, self._pruner, request)


def _checked(spec: pb.EnvironmentSpec) -> CheckedSpec:
    """A specification that keeps the rules. Raises SpecInvalid."""
    environment = to_environment(spec)
    if environment is None:
        raise SpecInvalid(violations=[("spec", f"names no backend; set {BACKENDS}")])
    variables = tuple((one.name, one.value) for one in spec.variables)
    faults = [
        *environment_violations("spec", environment),
        *variable_violations("spec.variables", variables),
    ]
    if faults:
        raise SpecInvalid(violations=faults)
    data = spec.SerializeToString(deterministic=True)
    return CheckedSpec(data, spec_hash(spec), packages_hash(spec))


def _checked_bytes(data: bytes) -> CheckedSpec:
    """The same of a file; the interpreter to build on is not that of another machine."""
    try:
        spec = pb.EnvironmentSpec.FromString(data)
    except DecodeError:
        raise SealedInvalid.because("its specification can't be read") from None
    spec.pip.ClearField("base_interpreter_path")
    return _checked(spec)


def _to_export(
    found: EnvironmentRecord, locks: Sequence[LockRecord], platform: str
) -> list[LockRecord]:
    """The sealed locks that go into the file. Raises StateNotAllowed where there is none."""
    sealed = [lock for lock in locks if lock.sealed is not None]
    chosen = [lock for lock in sealed if platform in ("", lock.platform)]
    if chosen:
        return chosen
    of_platform = f" for {shown(platform[:60])}" if platform else ""
    others = ", ".join(lock.platform for lock in sealed)
    kind = pb.EnvironmentSpec.FromString(found.spec).WhichOneof("backend")
    if kind not in SEALED_KINDS:
        raise StateNotAllowed(
            f"environment {found.name} version {found.version} can't be sealed: it is of kind "
            f"{kind}, of which nothing is built in a folder",
            hint="carry container images with `docker save` and `docker load`"
            if kind == "docker"
            else "export an environment of pip or conda packages",
            environment=found.name,
        )
    raise StateNotAllowed(
        f"environment {found.name} version {found.version} is not sealed{of_platform}"
        + (f"; it is for {others}" if others else ""),
        hint=f"seal it with `runyard environment build {found.name} -t TARGET --seal`, "
        "on a node of that platform",
        environment=found.name,
    )


def _with_locks(conn: Connection, record: EnvironmentRecord) -> Found:
    """A version of an environment with all that was resolved for it."""
    resolved = packages_hash(pb.EnvironmentSpec.FromString(record.spec))
    return record, environments.locks(conn, resolved)
