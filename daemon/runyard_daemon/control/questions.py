"""Questions to agents, and their answers over the sessions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from runyard_contract.errors import NodeUnreachable
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import Order
from runyard_daemon.core.types import NodeId

Answer = TypeVar("Answer")


class Questions:
    """Asks agents and matches their answers."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._pending: dict[str, tuple[NodeId, type, asyncio.Future[Any]]] = {}

    async def ask(
        self,
        node: NodeId,
        question: Callable[[str], Order],
        kind: type[Answer],
        timeout_s: float,
    ) -> Answer:
        """Asks a node, and waits for its answer of this kind.

        `question` makes the order of an id that the answer repeats. Raises NodeUnreachable where
        the node has no session, or not for long enough.
        """
        request_id = secrets.token_hex(8)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (node, kind, answer)
        try:
            if not self._live.order(node, question(request_id)):
                raise _away(node)
            async with asyncio.timeout(timeout_s):
                found: Answer = await answer
        except TimeoutError:
            raise _away(node) from None
        finally:
            del self._pending[request_id]
        return found

    def answered(self, node: NodeId, request_id: str, given: object) -> None:
        """Takes an answer; one that nobody waits for, or of another node or kind, is dropped."""
        asked, kind, answer = self._pending.get(request_id, (None, object, None))
        if answer is None or asked != node or not isinstance(given, kind):
            return
        if not answer.done():
            answer.set_result(given)

    def lost(self, node: NodeId) -> None:
        """Takes the end of a node's session: nobody is left to answer."""
        for asked, _, answer in self._pending.values():
            if asked == node and not answer.done():
                answer.set_exception(_away(node))


def _away(node: NodeId) -> NodeUnreachable:
    return NodeUnreachable(
        f"the node {node} does not answer",
        hint="try again when it is connected: `runyard compute show` says so",
        node=str(node),
    )
