"""Submits many runs at once: one snapshot for each source directory, one message for 1,000 runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runyard._convert import run_record
from runyard.caller_environment import caller_environment, current_environment
from runyard.interpreter import submitting_interpreter
from runyard.records import RunRecord
from runyard.request_id import new_request_id
from runyard.run_spec import Caller, script_of
from runyard.script_run_config import ScriptRunConfig
from runyard.snapshot.source import Source
from runyard.submission import Submission, Submitted, TakenSource
from runyard_contract.errors import BlobMissing, SnapshotNotFound
from runyard_contract.ids import ExperimentName
from runyard_contract.limits import RUN_REQUEST_BYTES, RUNS_MAX
from runyardpb.v1 import runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.channel import Connection

_BATCH_BYTES = RUN_REQUEST_BYTES // 2
"""Of the runs in one message, without what frames them; the answer repeats them and says more."""


def submit_all(
    connection: Connection,
    experiment: ExperimentName,
    configs: Sequence[ScriptRunConfig],
    *,
    tags: Mapping[str, str],
    properties: Mapping[str, str],
) -> list[Submitted]:
    """Submits runs in this order and returns when all are durable.

    All that can be wrong on this side is found before a message goes. Batches of up to 1,000 runs
    are taken whole or not at all. Raises RunyardError.
    """
    interpreter = os.fsencode(submitting_interpreter().path)
    caller = Caller(interpreter, caller_environment(current_environment()))
    sources: dict[tuple[object, object], Source] = {}
    submissions = []
    for config in configs:
        asked = config.source_directory, script_of(config)
        submissions.append(Submission(config, source=sources.get(asked), caller=caller))
        sources[asked] = submissions[-1].source
    requests = [submission.request(experiment, tags, properties) for submission in submissions]
    taken: dict[str, TakenSource] = {}
    for submission, request in zip(submissions, requests, strict=True):
        directory = submission.source.directory
        if directory not in taken:
            taken[directory] = TakenSource(directory, connection, experiment.workspace)
        submission.complete(request, taken[directory])
    for source in taken.values():
        source.offer()
    records: list[RunRecord] = []
    for batch in _batches(experiment, requests):
        try:
            answer = _create(connection, batch)
        except (BlobMissing, SnapshotNotFound):
            for source in taken.values():
                source.upload()
            answer = _create(connection, batch)
        records += map(run_record, answer.runs)
    return [
        Submitted(
            record,
            submission.source.directory,
            taken[submission.source.directory].snapshot.statistics,
            taken[submission.source.directory].notices(),
        )
        for record, submission in zip(records, submissions, strict=True)
    ]


def _batches(
    experiment: ExperimentName, requests: Sequence[runs_pb2.CreateRunRequest]
) -> Iterator[runs_pb2.BatchCreateRunsRequest]:
    """Messages within the limits of one, each with an id of its own."""
    batch = runs_pb2.BatchCreateRunsRequest()
    size_bytes = 0
    for request in requests:
        if batch.requests and (
            len(batch.requests) == RUNS_MAX or size_bytes + request.ByteSize() > _BATCH_BYTES
        ):
            yield batch
            batch = runs_pb2.BatchCreateRunsRequest()
            size_bytes = 0
        if not batch.requests:
            batch.parent, batch.request_id = str(experiment), new_request_id()
        batch.requests.append(request)
        size_bytes += request.ByteSize()
    if batch.requests:
        yield batch


def _create(
    connection: Connection, batch: runs_pb2.BatchCreateRunsRequest
) -> runs_pb2.BatchCreateRunsResponse:
    """Creates the runs of a batch; a repeat has the same request id."""
    stub = runs_pb2_grpc.RunServiceStub
    return connection.unary(stub, lambda runs: runs.BatchCreateRuns, batch)
