"""Lists runs, newest first, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from runyard._convert import run_record, state_number
from runyard.channel import Connection
from runyard.records import RunRecord
from runyard_contract.errors import SpecInvalid
from runyard_contract.limits import PAGE_SIZE_MAX
from runyard_contract.nearest import nearest
from runyard_contract.states import RunState, from_v1_word, v1_word
from runyardpb.v1 import runs_pb2, runs_pb2_grpc

ANY_EXPERIMENT = "-"
Labels = str | Mapping[str, str | None]


def list_runs(
    connection: Connection,
    workspace: str,
    experiment: str = ANY_EXPERIMENT,
    *,
    states: Iterable[RunState] = (),
    tags: Labels | None = None,
    properties: Labels | None = None,
    compute_target: str = "",
    where: str = "",
    limit: int | None = None,
) -> Iterator[RunRecord]:
    """The records of runs that fit, newest first; pages are asked for as they are needed.

    Args:
        experiment: its name; "-" for all.
        tags, properties: one key, or keys with values; None and "" match any value.
        where: comparisons joined by AND, as `ListRunsRequest.filter` has them.
        limit: at most so many. Default: all.
    """
    numbers = [number for state in states if (number := state_number(state)) is not None]
    request = runs_pb2.ListRunsRequest(
        parent=f"workspaces/{workspace}/experiments/{experiment}",
        page_size=min(limit or PAGE_SIZE_MAX, PAGE_SIZE_MAX),
        states=numbers,
        tags=_labels(tags),
        properties=_labels(properties),
        compute_target=compute_target,
        filter=where,
    )
    left = limit
    while True:
        answer = connection.unary(runs_pb2_grpc.RunServiceStub, lambda stub: stub.ListRuns, request)
        for run in answer.runs[:left]:
            yield run_record(run)
        if left is not None:
            left -= len(answer.runs)
            if left <= 0:
                return
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def _labels(labels: Labels | None) -> dict[str, str]:
    """A filter as it is sent: an empty value matches any."""
    if labels is None:
        return {}
    if isinstance(labels, str):
        return {labels: ""}
    return {key: value or "" for key, value in labels.items()}


def state_of_word(word: str) -> RunState:
    """The state of a v1 word such as "Running". SpecInvalid, with the nearest, for another."""
    try:
        return from_v1_word(word)
    except ValueError:
        words = [v1_word(state) for state in RunState]
        close = nearest(word, words)
        suggestion = f'; did you mean "{close}"?' if close else ""
        raise SpecInvalid(
            f"{word!r} is no status of a run{suggestion}",
            hint=f"use one of {', '.join(words)}",
            status=word,
        ) from None
