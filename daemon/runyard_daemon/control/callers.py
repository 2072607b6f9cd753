"""Who the call that is being served comes from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from runyard_daemon.core.access import Caller, Role

_NOBODY = Caller(Role.NOBODY, "nobody")
_caller: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def caller() -> Caller:
    """Who calls; outside of a call nobody does."""
    return _caller.get()


def may_act_for(who: Caller, node: str) -> bool:
    """Whether a caller may act for a node: it is that node, or the daemon's own user."""
    return who.role is Role.OWNER or node == f"{who.compute}/{who.node}"


@contextlib.contextmanager
def calling(who: Caller) -> Iterator[None]:
    """What runs inside, and the tasks that it starts, is called by this caller."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)
