"""A stream whose handler fails while an answer is on its way: the caller hears of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from runyard_contract.errors import RunNotFound
from runyard_daemon.journal import Journal
from runyard_daemon.rpc.doors import OwnersDoor
from runyard_daemon.rpc.edge import Edge, Gate

METHOD = "/runyardpb.v1.RunService/FollowRun"
LIMIT_S = 20.0
# More than the window of the connection takes: the write waits until the caller reads.
ANSWER = bytes(8 << 20)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Fails(grpc.GenericRpcHandler):
    """Sends a large answer, and meets an error while that is on its way."""

    def service(self, details: Any) -> Any:
        async def answer(request: bytes, context: Any) -> None:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(context.write(ANSWER))
                await asyncio.wait([sending], timeout=0.1)
                assert not sending.done()
                raise RunNotFound.named("x")

        return grpc.unary_stream_rpc_method_handler(answer, bytes, bytes)


@asynccontextmanager
async def connected(journal: Journal) -> AsyncIterator[grpc.aio.Channel]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        address = f"unix:{Path(folder) / 's'}"
        edge = Edge(Gate("1"), journal, lambda: None)
        server = grpc.aio.server(interceptors=[edge.at(OwnersDoor("me"))])
        server.add_generic_rpc_handlers([Fails()])
        server.add_insecure_port(address)
        await server.start()
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            yield channel
        await server.stop(0)


def test_an_error_in_the_midst_of_an_answer_ends_the_call() -> None:
    async def body() -> None:
        async with connected(Journal(os.open(os.devnull, os.O_WRONLY))) as channel:
            call = channel.unary_stream(METHOD)(b"")
            async with asyncio.timeout(LIMIT_S):
                await asyncio.sleep(0.3)  # the caller is slow: the write waits for it
                assert await call.read() == ANSWER
                assert await call.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(body())
