"""RunService."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runyard_contract.errors import SpecInvalid
from runyard_contract.ids import ExperimentName
from runyard_contract.limits import RUNS_MAX
from runyard_daemon.config import Config
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.cancel import Canceler
from runyard_daemon.control.changerun import change_run
from runyard_daemon.control.collect import Collector
from runyard_daemon.control.explained import explain
from runyard_daemon.control.live import Live
from runyard_daemon.control.removal import Remover
from runyard_daemon.control.runfiles import LogListing, RunFiles
from runyard_daemon.control.submit import Request, Submission, Submitter
from runyard_daemon.rpc.convert.changes import to_change
from runyard_daemon.rpc.convert.explanations import to_explanation
from runyard_daemon.rpc.convert.runs import (
    from_file,
    read_run,
    to_file,
    to_run,
)
from runyard_daemon.rpc.convert.specs import completed_spec, to_labels, to_wish
from runyard_daemon.rpc.convert.times import from_duration, to_timestamp
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.follow import Following
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.lookup import find_run, split_run_name
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.rpc.prune import prune_runs
from runyard_daemon.rpc.selection import is_oldest_first, read_filter, with_workspace
from runyard_daemon.rpc.watch import watch_runs
from runyard_daemon.store import Connection, events, listing
from runyard_daemon.store.runs import RunRecord, SpecRecord
from runyardpb.v1 import runs_pb2 as pb
from runyardpb.v1.runs_pb2_grpc import RunServiceServicer

_CONVERTED_AT_ONCE = 50
"""Runs of a batch that are converted before others have a turn."""


@dataclass(frozen=True, slots=True)
class RunParts:
    """What serves runs."""

    config: Config
    live: Live
    logs: AttemptLogs
    submitter: Submitter
    canceler: Canceler
    collector: Collector
    files: RunFiles
    remover: Remover
    pager: Pager


class RunService(RunServiceServicer):
    """Submits, reads and steers runs."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self._live = parts.live

    async def CreateRun(
        self, request: pb.CreateRunRequest, context: Context
    ) -> pb.CreateRunResponse:
        """Submits a run; answered when it is durable."""
        name = ExperimentName.parse(request.parent)
        asked = [_submission(request, name)]

        def encode(new: Sequence[tuple[RunRecord, SpecRecord]]) -> bytes:
            ((record, spec),) = new
            return pb.CreateRunResponse(run=to_run(record, spec, (), ())).SerializeToString()

        known = Request("CreateRun", request.request_id, _body_hash(request))
        answer = await self._parts.submitter.submit(asked, known, encode)
        return pb.CreateRunResponse.FromString(answer)

    async def BatchCreateRuns(
        self, request: pb.BatchCreateRunsRequest, context: Context
    ) -> pb.BatchCreateRunsResponse:
        """Submits several runs in one commit; answered when all are durable."""
        name = ExperimentName.parse(request.parent)
        _check_batch(request)
        asked = []
        for index, one in enumerate(request.requests):
            asked.append(_submission(one, name, f"requests[{index}]."))
            if index % _CONVERTED_AT_ONCE == 0:
                await asyncio.sleep(0)  # others have their turn meanwhile

        def encode(new: Sequence[tuple[RunRecord, SpecRecord]]) -> bytes:
            runs = [to_run(record, spec, (), ()) for record, spec in new]
            return pb.BatchCreateRunsResponse(runs=runs).SerializeToString()

        known = Request("BatchCreateRuns", request.request_id, _body_hash(request))
        answer = await self._parts.submitter.submit(asked, known, encode)
        return pb.BatchCreateRunsResponse.FromString(answer)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """One run."""
        return pb.GetRunResponse(run=self._read(find_run(self._live, request.name)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """A page of runs in order of submission."""
        page = self._parts.pager.read(request)
        after = int(page.after[0]) if page.after else None
        asked, is_ascending = read_filter(request), is_oldest_first(request)
        first = find_run(self._live, request.from_run).sequence if request.from_run else 0
        if asked is None:
            cursor = self._live.store.peek(events.latest)
            return pb.ListRunsResponse(watch_cursor=str(cursor))
        now_us = self._live.now_us()

        def look(conn: Connection) -> tuple[list[RunRecord], list[pb.Run], int]:
            cursor = events.latest(conn)
            wanted = with_workspace(conn, replace(asked, from_sequence=first))
            rows = listing.page(conn, wanted, after, page.size + 1, is_oldest_first=is_ascending)
            shown = [read_run(conn, row, now_us, with_history=False) for row in rows[: page.size]]
            return rows, shown, cursor

        rows, shown, cursor = await self._live.store.read(look)
        _, token = self._parts.pager.cut(page, rows, [(row.sequence,) for row in rows])
        return pb.ListRunsResponse(runs=shown, next_page_token=token, watch_cursor=str(cursor))

    async def UpdateRun(
        self, request: pb.UpdateRunRequest, context: Context
    ) -> pb.UpdateRunResponse:
        """Changes tags, properties or the display name."""
        name = split_run_name(request.run.name)
        run = await change_run(self._live, *name, to_change(request))
        return pb.UpdateRunResponse(run=self._read(run))

    async def CancelRun(
        self, request: pb.CancelRunRequest, context: Context
    ) -> pb.CancelRunResponse:
        """Asks a run to end."""
        name = split_run_name(request.name)
        run = await self._parts.canceler.cancel(*name, request.reason)
        return pb.CancelRunResponse(run=self._read(run))

    async def WatchRuns(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.WatchRunsRequest, context: Writable[pb.WatchRunsResponse]
    ) -> None:
        """Streams changes of runs from a cursor on."""
        await watch_runs(context, self._live, request, self._parts.config.stream_heartbeat_s)

    async def FollowRun(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.FollowRunRequest, context: Writable[pb.FollowRunResponse]
    ) -> None:
        """Streams one run with its log to its end."""
        run = find_run(self._live, request.name)
        heartbeat_s = self._parts.config.stream_heartbeat_s
        await Following(context, self._live, self._parts.logs, run, heartbeat_s).run(request)

    async def ExplainRun(
        self, request: pb.ExplainRunRequest, context: Context
    ) -> pb.ExplainRunResponse:
        """Why a run waits, what it does, or why it ended."""
        found = await explain(self._live, find_run(self._live, request.name))
        return to_explanation(found, self._live.now_us())

    async def ListRunFiles(
        self, request: pb.ListRunFilesRequest, context: Context
    ) -> pb.ListRunFilesResponse:
        """A page of files by path, the logs among them."""
        page = self._parts.pager.read(request)
        after = str(page.after[0]) if page.after else ""
        run = find_run(self._live, request.parent)
        rows = await self._parts.files.listing(run, request.prefix, after, page.size + 1)
        shown, token = self._parts.pager.cut(page, rows, [(row.path,) for row in rows])
        now = to_timestamp(run.end_time_us or self._live.now_us())
        return pb.ListRunFilesResponse(
            files=[
                pb.RunFile(path=row.path, size_bytes=row.size_bytes, update_time=now)
                if isinstance(row, LogListing)
                else to_file(row)
                for row in shown
            ],
            next_page_token=token,
        )

    async def ReadRunFile(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.ReadRunFileRequest, context: Writable[pb.ReadRunFileResponse]
    ) -> None:
        """Streams one file from an offset on."""
        run = find_run(self._live, request.name)
        async for data in self._parts.files.read(run, request.path, request.offset_bytes):
            await context.write(pb.ReadRunFileResponse(data=data))

    async def AddRunFiles(
        self, request: pb.AddRunFilesRequest, context: Context
    ) -> pb.AddRunFilesResponse:
        """Adds files to a run's record."""
        now_us = self._live.now_us()
        found = [from_file(file, now_us) for file in request.files]
        await self._parts.files.add(find_run(self._live, request.name), found)
        return pb.AddRunFilesResponse()

    async def CollectWorkdir(
        self, request: pb.CollectWorkdirRequest, context: Context
    ) -> pb.CollectWorkdirResponse:
        """Brings the working folder of an ended run."""
        count = await self._parts.collector.collect(find_run(self._live, request.name))
        return pb.CollectWorkdirResponse(file_count=count)

    async def DeleteRun(
        self, request: pb.DeleteRunRequest, context: Context
    ) -> pb.DeleteRunResponse:
        """Removes an ended run for good."""
        await self._parts.remover.delete(*split_run_name(request.name))
        return pb.DeleteRunResponse()

    async def PruneRuns(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.PruneRunsRequest, context: Writable[pb.PruneRunsResponse]
    ) -> None:
        """Removes ended runs by age, number or size."""
        await prune_runs(context, self._parts.remover, request)

    def _read(self, record: RunRecord) -> pb.Run:
        now_us = self._live.now_us()
        return self._live.store.peek(lambda conn: read_run(conn, record, now_us))


def _body_hash(request: pb.CreateRunRequest | pb.BatchCreateRunsRequest) -> str:
    """Hash of a request without its id: a repeat must ask for the same."""
    plain = type(request)()
    plain.MergeFrom(request)  # type: ignore[arg-type]  # of the same type
    plain.request_id = ""
    return hashlib.blake2b(plain.SerializeToString(deterministic=True), digest_size=16).hexdigest()


def _check_batch(request: pb.BatchCreateRunsRequest) -> None:
    """Raises SpecInvalid for a batch that is none."""
    count = len(request.requests)
    if not 1 <= count <= RUNS_MAX:
        raise SpecInvalid(
            violations=[("requests", f"{count} runs in one batch; 1 to {RUNS_MAX} can be")],
            hint="submit the rest in further batches",
        )
    for index, one in enumerate(request.requests):
        if one.parent not in {"", request.parent}:
            raise SpecInvalid(
                violations=[(f"requests[{index}].parent", "is not the parent of the batch")]
            )
        if one.request_id:
            raise SpecInvalid(
                violations=[(f"requests[{index}].request_id", "is set: the batch has the one id")]
            )


def _submission(request: pb.CreateRunRequest, name: ExperimentName, field: str = "") -> Submission:
    """A run to submit. `field` is its place in a batch."""
    # First what is cheap to refuse: the hash takes a copy of the whole request.
    tags = to_labels(f"{field}tags", request.tags)
    properties = to_labels(f"{field}properties", request.properties)
    try:
        wish = to_wish(request.spec, name.workspace)
    except SpecInvalid as error:
        found = [(field + fault.field, fault.description) for fault in error.violations]
        raise SpecInvalid(violations=found, hint=error.hint) from None
    return Submission(
        workspace=name.workspace,
        experiment=name.experiment,
        wish=wish,
        complete=completed_spec(request.spec),
        tags=tags,
        properties=properties,
        display_name=request.display_name,
        client_snapshot_s=from_duration(request.snapshot_duration),
        field=field,
    )
