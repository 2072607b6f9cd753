"""WorkspaceService, ExperimentService and ComputeService: names looked up and listed."""

from __future__ import annotations

from runyard_contract.ids import ComputeName, ExperimentName, WorkspaceName
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.rpc.convert.nouns import to_compute, to_experiment, to_workspace
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.store import Connection, computes, experiments, workspaces
from runyard_daemon.store.computes import ComputeRecord, NodeRecord
from runyard_daemon.store.experiments import ExperimentRecord
from runyardpb.v1 import compute_pb2, experiments_pb2, workspaces_pb2
from runyardpb.v1.compute_pb2_grpc import ComputeServiceServicer
from runyardpb.v1.experiments_pb2_grpc import ExperimentServiceServicer
from runyardpb.v1.workspaces_pb2_grpc import WorkspaceServiceServicer


class WorkspaceService(WorkspaceServiceServicer):
    """Reads workspaces."""

    def __init__(self, live: Live, pager: Pager) -> None:
        self._live = live
        self._pager = pager

    async def GetWorkspace(
        self, request: workspaces_pb2.GetWorkspaceRequest, context: Context
    ) -> workspaces_pb2.GetWorkspaceResponse:
        """One workspace."""
        name = WorkspaceName.parse(request.name).workspace
        found = self._live.store.peek(lambda conn: catalog.workspace(conn, name))
        return workspaces_pb2.GetWorkspaceResponse(workspace=to_workspace(found))

    async def ListWorkspaces(
        self, request: workspaces_pb2.ListWorkspacesRequest, context: Context
    ) -> workspaces_pb2.ListWorkspacesResponse:
        """A page of workspaces by name."""
        page = self._pager.read(request)
        after = str(page.after[0]) if page.after else ""
        rows = await self._live.store.read(lambda conn: workspaces.page(conn, after, page.size + 1))
        shown, token = self._pager.cut(page, rows, [(row.name,) for row in rows])
        return workspaces_pb2.ListWorkspacesResponse(
            workspaces=map(to_workspace, shown), next_page_token=token
        )


class ExperimentService(ExperimentServiceServicer):
    """Reads experiments."""

    def __init__(self, live: Live, pager: Pager) -> None:
        self._live = live
        self._pager = pager

    async def GetExperiment(
        self, request: experiments_pb2.GetExperimentRequest, context: Context
    ) -> experiments_pb2.GetExperimentResponse:
        """One experiment."""
        name = ExperimentName.parse(request.name)

        def look(conn: Connection) -> ExperimentRecord:
            workspace = catalog.workspace(conn, name.workspace)
            return catalog.experiment(conn, workspace.name, name.experiment)

        found = self._live.store.peek(look)
        return experiments_pb2.GetExperimentResponse(experiment=to_experiment(found))

    async def ListExperiments(
        self, request: experiments_pb2.ListExperimentsRequest, context: Context
    ) -> experiments_pb2.ListExperimentsResponse:
        """A page of experiments, the last used first."""
        page = self._pager.read(request)
        after = int(page.after[0]) if page.after else None
        name = WorkspaceName.parse(request.parent).workspace

        def look(conn: Connection) -> list[ExperimentRecord]:
            workspace = catalog.workspace(conn, name)
            return experiments.page(conn, workspace.name, after, page.size + 1)

        rows = await self._live.store.read(look)
        shown, token = self._pager.cut(page, rows, [(row.last_sequence,) for row in rows])
        return experiments_pb2.ListExperimentsResponse(
            experiments=map(to_experiment, shown), next_page_token=token
        )


class ComputeService(ComputeServiceServicer):
    """Reads compute targets."""

    def __init__(self, live: Live, pager: Pager) -> None:
        self._live = live
        self._pager = pager

    async def GetCompute(
        self, request: compute_pb2.GetComputeRequest, context: Context
    ) -> compute_pb2.GetComputeResponse:
        """One target."""
        name = ComputeName.parse(request.name)

        def look(conn: Connection) -> tuple[ComputeRecord, list[NodeRecord]]:
            workspace = catalog.workspace(conn, name.workspace).name
            found = catalog.compute(conn, workspace, name.compute)
            return found, computes.nodes(conn, workspace, found.name)

        found, nodes = await self._live.store.read(look)
        return compute_pb2.GetComputeResponse(compute=to_compute(found, nodes, self._live))

    async def ListComputes(
        self, request: compute_pb2.ListComputesRequest, context: Context
    ) -> compute_pb2.ListComputesResponse:
        """A page of targets by name."""
        page = self._pager.read(request)
        after = str(page.after[0]) if page.after else ""
        name = WorkspaceName.parse(request.parent).workspace

        def look(conn: Connection) -> list[tuple[ComputeRecord, list[NodeRecord]]]:
            workspace = catalog.workspace(conn, name).name
            found = computes.page(conn, workspace, after, page.size + 1)
            return [(row, computes.nodes(conn, workspace, row.name)) for row in found]

        rows = await self._live.store.read(look)
        shown, token = self._pager.cut(page, rows, [(row.name,) for row, _ in rows])
        return compute_pb2.ListComputesResponse(
            computes=[to_compute(row, nodes, self._live) for row, nodes in shown],
            next_page_token=token,
        )
