"""Which runs a ListRuns asks for, from its fields and its filter together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runyard_contract.errors import SpecInvalid
from runyard_daemon.control import catalog
from runyard_daemon.core.runfilter import FilterTerms, parse_filter
from runyard_daemon.rpc.convert.runs import from_state
from runyard_daemon.rpc.convert.times import read_time
from runyard_daemon.rpc.lookup import ANY, split_parent
from runyard_daemon.store import Connection
from runyard_daemon.store.listing import NamePattern, RunFilter
from runyardpb.v1 import runs_pb2 as pb

_ORDERS = {"": False, "create_time": True, "create_time asc": True, "create_time desc": False}


def is_oldest_first(request: pb.ListRunsRequest) -> bool:
    """The order asked for. Raises SpecInvalid for one that there is not."""
    order = _ORDERS.get(" ".join(request.order_by.lower().split()))
    if order is None:
        raise SpecInvalid(
            violations=[("order_by", "must be `create_time desc` or `create_time asc`")]
        )
    return order


def read_filter(request: pb.ListRunsRequest) -> RunFilter | None:
    """What is asked for, names not yet looked up; None: what no run can be.

    Raises SpecInvalid, NameInvalid.
    """
    workspace, experiment = split_parent(request.parent)
    states = [from_state(number) for number in request.states]
    if None in states:
        raise SpecInvalid(violations=[("states", "names a state that no run has")])
    asked = RunFilter(
        workspace=workspace,
        experiment="" if experiment == ANY else experiment,
        states=frozenset(state for state in states if state is not None),
        compute=request.compute_target,
        tags=dict(request.tags),
        properties=dict(request.properties),
    )
    return _narrowed(asked, parse_filter(request.filter, read_time))


def with_workspace(conn: Connection, asked: RunFilter) -> RunFilter:
    """The same with the workspace as it is spelled. Raises WorkspaceNotFound."""
    return replace(asked, workspace=catalog.workspace(conn, asked.workspace).name)


def _narrowed(asked: RunFilter, terms: FilterTerms) -> RunFilter | None:
    """Both together; None where they exclude each other."""
    states = asked.states & terms.states if asked.states and terms.states else None
    pairs = [(asked.experiment, terms.experiment), (asked.compute, terms.target)]
    if states is not None and not states:
        return None
    if any(one and other and one.casefold() != other.casefold() for one, other in pairs):
        return None
    tags = _merged(asked.tags, terms.tags)
    properties = _merged(asked.properties, terms.properties)
    if tags is None or properties is None:
        return None
    is_beginning = terms.name.endswith("*")
    text = terms.name[:-1] if is_beginning else terms.name
    return replace(
        asked,
        experiment=asked.experiment or terms.experiment,
        compute=asked.compute or terms.target,
        states=states if states is not None else asked.states | terms.states,
        tags=tags,
        properties=properties,
        name=NamePattern(text, is_beginning) if terms.name else None,
        created_from_us=terms.created_from_us,
        created_before_us=terms.created_before_us,
    )


def _merged(asked: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str] | None:
    """The labels of both, where an empty value matches any; None where one has two values."""
    both = dict(asked)
    for key, value in more.items():
        held = both.get(key, "")
        if held and value and held != value:
            return None
        both[key] = held or value
    return both
