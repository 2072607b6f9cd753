"""WatchRuns: changes of runs from a cursor on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator

from runyard_contract.errors import CursorExpired, SpecInvalid
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.rpc.convert.runs import read_run
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.lookup import ANY, split_parent
from runyard_daemon.store import Connection, events, runs
from runyard_daemon.store.events import EventRecord
from runyardpb.v1 import runs_pb2 as pb

PAUSE_S = 0.02
"""Between two looks: what changes meanwhile is one reading."""
MESSAGE_BYTES = 256 << 10
"""Of the runs in one message, for who accepts several, unless one is larger."""
BATCH = 200
"""Events that are looked at in one reading."""


async def watch_runs(
    context: Writable[pb.WatchRunsResponse],
    live: Live,
    request: pb.WatchRunsRequest,
    heartbeat_s: float,
) -> None:
    """Sends each run that changed, as it is when it is sent; never ends by itself."""
    workspace, experiment = split_parent(request.parent)
    live.store.peek(lambda conn: catalog.workspace(conn, workspace))
    cursor = _cursor(live, request.cursor)
    loop = asyncio.get_running_loop()
    due_s = loop.time() + heartbeat_s
    with live.changes.of_any() as changed:
        while True:
            changed.clear()
            next_look_s = loop.time() + PAUSE_S
            look = functools.partial(
                _read,
                now_us=live.now_us(),
                cursor=cursor,
                parent=(workspace, experiment),
                is_ended_only=request.is_ended_only,
            )
            found, shown = await live.store.read(look)
            for response in _responses(shown, MESSAGE_BYTES if request.accepts_several else 0):
                await context.write(response)
            if found:
                cursor = found[-1].cursor
            is_due = loop.time() >= due_s  # also where others' runs change all the time
            if is_due and not shown:
                await context.write(pb.WatchRunsResponse(cursor=str(cursor)))
            if is_due or shown:
                due_s = loop.time() + heartbeat_s
            if len(found) < BATCH:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due_s):
                        await changed.wait()
                await asyncio.sleep(max(0.0, next_look_s - loop.time()))


def _responses(
    shown: list[tuple[EventRecord, pb.Run]], limit_bytes: int
) -> Iterator[pb.WatchRunsResponse]:
    """The messages for some changes; only a message below the limit takes another run."""
    response = pb.WatchRunsResponse()
    size_bytes = 0
    for event, run in shown:
        run_bytes = run.ByteSize()
        if response.earlier and size_bytes + run_bytes > limit_bytes:
            yield _completed(response)
            response, size_bytes = pb.WatchRunsResponse(), 0
        response.earlier.append(run)
        response.cursor = str(event.cursor)
        size_bytes += run_bytes
    if response.earlier:
        yield _completed(response)


def _completed(response: pb.WatchRunsResponse) -> pb.WatchRunsResponse:
    """Moves the last of the runs gathered to its own place."""
    response.run.CopyFrom(response.earlier.pop())
    return response


def _cursor(live: Live, text: str) -> int:
    """Where to begin. Raises SpecInvalid."""
    if not text:
        return live.store.peek(events.latest)
    if not text.isdecimal() or len(text) > 18:
        raise SpecInvalid(violations=[("cursor", f"{text[:40]!r} is no cursor")])
    return int(text)


def _read(
    conn: Connection, now_us: int, cursor: int, parent: tuple[str, str], *, is_ended_only: bool
) -> tuple[list[EventRecord], list[tuple[EventRecord, pb.Run]]]:
    """The next events, and the runs that are watched among them, each once, as they are now.

    Raises CursorExpired where some that come next are kept no more: the watcher was too slow.
    """
    if not events.is_kept(conn, cursor):
        raise CursorExpired(
            f"the cursor {cursor} is older than the events that are kept",
            hint="list the runs, then watch from the listing's cursor",
            cursor=str(cursor),
        )
    workspace, experiment = parent
    found = events.since(conn, cursor, BATCH)
    workspace, experiment = workspace.casefold(), experiment.casefold()
    newest = {
        event.run_id: event
        for event in found
        if (event.is_final or not is_ended_only)
        and event.workspace.casefold() == workspace
        and (experiment == ANY or event.experiment.casefold() == experiment)
    }
    shown = []
    for event in sorted(newest.values(), key=lambda event: event.cursor):
        record = runs.get(conn, event.run_id)
        if record is not None:
            shown.append((event, read_run(conn, record, now_us, with_history=False)))
    return found, shown
