"""The one interceptor in front of all services: who may call now, and how errors leave.

A RunyardError goes out as a rich status; anything else is a defect, goes out as INTERNAL with the
number of an incident, and its traceback stays in the daemon's log. CancelledError always passes:
a handler that swallows it leaks memory in gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from runyard_contract.compatibility import mismatch, serves
from runyard_contract.errors import (
    Draining,
    InternalError,
    PermissionDenied,
    RunyardError,
    VersionMismatch,
    of_disk,
)
from runyard_contract.status import DETAILS_KEY, status_details, to_status
from runyard_daemon.calls import CallFigures
from runyard_daemon.control.access import unauthenticated
from runyard_daemon.control.callers import calling
from runyard_daemon.core.access import Caller, may
from runyard_daemon.journal import Journal
from runyard_daemon.rpc.answers import Answers
from runyard_daemon.rpc.decoding import decoder, readable
from runyard_daemon.rpc.doors import Door

VERSION_KEY = "runyard-version"
"""Metadata key by which a client or agent names its build."""

_ADMIN = "/runyardpb.v1.AdminService/"
_HEALTH = "/grpc.health.v1.Health/"
_AGENT = "/runyardpb.agent.v1.AgentService/"

_CODE_NAMES: Mapping[object, str] = {code.value[0]: code.name for code in grpc.StatusCode}

Handler = Callable[[Any, Any], Awaitable[Any]]
Context = Any
"""The context of a call; streams are typed by what `rpc.idle` needs of it."""


@dataclass(slots=True)
class Gate:
    """Whether calls are let in. `is_draining` is set once, when the daemon begins to stop."""

    build: str
    """The daemon's own build."""
    is_draining: bool = False

    def check(self, method: str, caller_build: str | None) -> None:
        """Raises Draining or VersionMismatch. Admin and health serve every version, to the end."""
        if method.startswith((_ADMIN, _HEALTH)):
            return
        if self.is_draining:
            raise draining()
        if caller_build is None:
            return
        if method.startswith(_AGENT):
            check_agent(self.build, caller_build)
        elif not serves(self.build, caller_build):
            raise mismatch(self.build, caller_build)


def check_agent(daemon_build: str, agent_build: str) -> None:
    """Raises VersionMismatch unless both sides run the same build.

    Stricter than for clients: an agent on the daemon's own machine costs nothing to replace.
    """
    if agent_build == daemon_build:
        return
    raise VersionMismatch(
        f"the daemon is runyard {daemon_build}, the agent {agent_build}",
        hint="end this agent; the daemon starts one of its own version, which adopts its runs",
        daemon=daemon_build,
        agent=agent_build,
    )


def draining() -> Draining:
    """The error for a call that meets a daemon on its way out."""
    return Draining("the daemon is stopping", hint="try again in a moment")


class Edge:
    """Guards every handler. All handlers are coroutines: streams use `context.write`.

    `at` gives the interceptor of one port.
    """

    def __init__(self, gate: Gate, journal: Journal, on_activity: Callable[[], None]) -> None:
        self._gate = gate
        self._journal = journal
        self._on_activity = on_activity
        self._streams: set[asyncio.Task[Any]] = set()
        self._bearers: dict[asyncio.Task[Any], str] = {}
        """Streams of either way that were opened with a token, of which this is the id."""
        self._interrupted: weakref.WeakKeyDictionary[asyncio.Task[Any], RunyardError] = (
            weakref.WeakKeyDictionary()
        )
        self.client_calls = 0
        """Calls of clients (not of agents, not about health) under way."""
        self.figures = CallFigures()

    def at(self, door: Door) -> grpc.aio.ServerInterceptor:  # type: ignore[type-arg]
        """The interceptor of a port whose door this is."""
        return _Interceptor(self, door)

    async def intercept(
        self,
        door: Door,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        metadata = handler_call_details.invocation_metadata or ()
        build = _caller_build(handler_call_details)
        make, inner = _parts(handler)
        # Streams may go on for ever: they are ended when the daemon stops. Sessions say goodbye.
        is_stream = handler.response_streaming and not method.endswith("/Session")

        is_unary = not handler.request_streaming and not handler.response_streaming

        async def guarded(request: Any, context: Any) -> Any:
            began_s = time.perf_counter()
            self.figures.under_way += 1
            try:
                caller = _let_in(door.caller(metadata, context), method)
                self._gate.check(method, build)
                token = "" if is_unary else caller.token
                with self._counted(method, token, is_stream), calling(caller):
                    if not handler.response_streaming:
                        return await inner(readable(request), context)
                    return await _streamed(inner, readable(request), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                if is_caller_gone(error):
                    raise asyncio.CancelledError from None
                known = self.describe(method, error)
                # The request may be large and its error is part of a cycle: let go of it now.
                error.__traceback__, request = None, None
                await self._abort(known, context)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                why = self._interrupted.get(task) if task is not None else None
                if task is not None and why is not None:
                    task.uncancel()
                    await self._abort(why, context)
                raise
            finally:
                duration_s = time.perf_counter() - began_s if is_unary else None
                self._count(method, context, duration_s)

        return make(
            guarded,
            request_deserializer=decoder(method, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _count(self, method: str, context: Any, duration_s: float | None) -> None:
        """Counts a call that ends."""
        self.figures.under_way -= 1
        task = asyncio.current_task()
        is_cancelled = task is not None and task.cancelling() > 0
        code = "CANCELLED" if is_cancelled else _code_name(context.code())
        self.figures.ended(_short(method), code, duration_s)

    @contextlib.contextmanager
    def _counted(self, method: str, token: str, is_stream: bool) -> Iterator[None]:
        """Notes that a call is under way."""
        is_client = not method.startswith((_AGENT, _HEALTH))
        task = asyncio.current_task()
        if is_stream and task is not None:
            self._streams.add(task)
        if token and task is not None:
            self._bearers[task] = token
        if is_client:
            self.client_calls += 1
            self._on_activity()
        try:
            yield
        finally:
            if is_client:
                self.client_calls -= 1
                self._on_activity()
            if task is not None:
                self._streams.discard(task)
                self._bearers.pop(task, None)

    def interrupt_streams(self) -> None:
        """Ends all streams to clients with Draining; their callers come back."""
        for task in self._streams:
            self._interrupt(task, draining())

    def turn_out(self, token_id: str) -> None:
        """Ends streams and uploads of whoever bears a token that counts no more."""
        for task, shown in self._bearers.items():
            if shown == token_id:
                self._interrupt(task, unauthenticated())

    def _interrupt(self, task: asyncio.Task[Any], why: RunyardError) -> None:
        self._interrupted[task] = why
        task.cancel()

    async def _abort(self, known: RunyardError, context: Any) -> None:
        code = grpc.StatusCode[known.code]
        await context.abort(code, status_details(known), ((DETAILS_KEY, to_status(known)),))

    def describe(self, method: str, error: Exception) -> RunyardError:
        """The error as the caller may see it; what is not meant for callers is logged."""
        known = first_known(error)
        if known is not None:
            if known.code == "DATA_LOSS":
                self._journal.error("data_loss", method=method, message=known.message)
            return known
        incident = secrets.token_hex(6)
        self._journal.failure("incident", error, incident=incident, method=method)
        return InternalError.incident(incident)


class _Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # no class at run time
    """The edge, at one port."""

    def __init__(self, edge: Edge, door: Door) -> None:
        self._edge = edge
        self._door = door

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        return await self._edge.intercept(self._door, continuation, handler_call_details)


def _let_in(caller: Caller, method: str) -> Caller:
    """The caller, if it may call the method. Raises PermissionDenied."""
    if may(caller, _short(method)):
        return caller
    raise PermissionDenied(
        f"{caller.name} is {caller.role.value} here, and may not call {_short(method)}",
        hint="ask an administrator for a token with more rights",
        role=caller.role.value,
        method=_short(method),
    )


async def _streamed(inner: Handler, request: Any, context: Any) -> Any:
    """Runs a handler that streams answers, and leaves none on its way behind it."""
    answers = Answers(context)
    try:
        return await inner(request, answers)
    finally:
        await answers.settle()


def is_caller_gone(error: Exception) -> bool:
    """Whether all that went wrong is that an answer could not be sent: its caller cancelled."""
    if isinstance(error, ExceptionGroup):
        return all(is_caller_gone(inner) for inner in error.exceptions)
    return isinstance(error, grpc.aio.InternalError)


def first_known(error: BaseException) -> RunyardError | None:
    """The error that a user can act on in `error`, which may be a group; None: a defect."""
    if isinstance(error, RunyardError):
        return error
    if isinstance(error, OSError):
        return of_disk(error, "the daemon's data directory")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            known = first_known(inner)
            if known is not None:
                return known
    return None


def _caller_build(details: grpc.HandlerCallDetails) -> str | None:
    for key, value in details.invocation_metadata or ():
        if key == VERSION_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return None


def _short(method: str) -> str:
    """A method as figures name it, such as "RunService/CreateRun"."""
    service, _, name = method.rpartition("/")
    return f"{service.rpartition('.')[2]}/{name}"


def _code_name(code: object) -> str:
    """A context's code as its name: gRPC keeps 0 or None until one was set, and numbers then."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODE_NAMES.get(code, "OK")


def _parts(handler: Any) -> tuple[Callable[..., Any], Handler]:
    """How to rebuild a handler of its kind, and the coroutine in it."""
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary
