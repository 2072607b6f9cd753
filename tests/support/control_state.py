"""What the fake control plane holds, saw, and is told to get wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

import grpc

from runyard_contract.errors import RunyardError
from runyard_contract.status import DETAILS_KEY, to_status
from runyardpb.v1 import metrics_pb2, runs_pb2

Follow = Callable[[runs_pb2.FollowRunRequest], Iterable[runs_pb2.FollowRunResponse]]


@dataclass
class ControlState:
    """What the fake daemon holds and saw; survives a restart of the server."""

    blobs: dict[bytes, bytes] = field(default_factory=dict)
    snapshots: set[str] = field(default_factory=set)
    runs: dict[str, runs_pb2.Run] = field(default_factory=dict)
    created: list[runs_pb2.CreateRunRequest] = field(default_factory=list)
    by_request: dict[str, runs_pb2.Run] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    metadata: list[dict[str, str]] = field(default_factory=list)
    blobs_received: int = 0
    bytes_received: int = 0
    digests_asked: int = 0
    page_size: int = 1000
    listed: list[list[str]] = field(default_factory=list)
    """The runs that each ListRuns found."""
    files: dict[str, bytes] = field(default_factory=dict)
    file_records: list[runs_pb2.RunFile] = field(default_factory=list)
    log: list[tuple[int, bytes]] = field(default_factory=list)
    points: list[metrics_pb2.MetricPoint] = field(default_factory=list)
    fail_next: dict[str, RunyardError] = field(default_factory=dict)
    follow: Follow | None = None
    upload_limit: int | None = None
    """Messages of one upload stream that are taken before the stream is cut."""


def abort(context: grpc.ServicerContext, error: RunyardError) -> NoReturn:
    """Ends a call with an error, as the daemon does."""
    context.set_trailing_metadata(((DETAILS_KEY, to_status(error)),))
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError("abort raises")


class Service:
    """A service over a state, which counts its calls and fails where it is told to."""

    def __init__(self, state: ControlState) -> None:
        self.state = state

    def enter(self, name: str, context: grpc.ServicerContext) -> None:
        self.state.calls[name] += 1
        self.state.metadata.append({str(k): str(v) for k, v in context.invocation_metadata()})
        error = self.state.fail_next.pop(name, None)
        if error is not None:
            abort(context, error)
