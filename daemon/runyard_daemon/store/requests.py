"""Request ids: a repeated call gets the first answer and has no second effect.

The answer is kept in the transaction of the effect, by principal, rpc and request id.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass

from runyard_contract.errors import RequestIdInvalid, RequestIdReused

KEEP_S = 7 * 86_400
_PRUNE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a request id is unique in. Use `request_key` for an id from outside."""

    principal: str
    """Who called: the same id of two principals is two requests."""
    rpc: str
    request_id: str
    """A UUID in its usual spelling."""


def request_key(principal: str, rpc: str, request_id: str) -> RequestKey:
    """Gives the key for an id from outside. Raises RequestIdInvalid for what is no UUID."""
    try:
        known = uuid.UUID(request_id) if len(request_id) == 36 else None
    except ValueError:
        known = None
    if known is None:
        cut = request_id[:64]
        raise RequestIdInvalid(
            f"the request id {cut!r} is no UUID",
            hint="make one for each intended call, such as Python's uuid.uuid4(), and repeat it "
            "when the call is repeated",
            request_id=cut,
        )
    return RequestKey(principal, rpc, str(known))


def find(conn: sqlite3.Connection, key: RequestKey, body_hash: str) -> bytes | None:
    """Gives the answer that was kept for this request; None: it is new.

    Raises RequestIdReused where the id was used for another body.
    """
    row = conn.execute(
        "SELECT body_hash, response FROM requests "
        "WHERE principal = ? AND rpc = ? AND request_id = ?",
        (key.principal, key.rpc, key.request_id),
    ).fetchone()
    if row is None:
        return None
    if row[0] != body_hash:
        raise RequestIdReused(
            f"the request id {key.request_id} was used for another {key.rpc}",
            hint="make a new request id for a new request",
            request_id=key.request_id,
            rpc=key.rpc,
        )
    return bytes(row[1])


def keep(
    conn: sqlite3.Connection, key: RequestKey, body_hash: str, response: bytes, now_us: int
) -> None:
    """Keeps the answer of a new request, in the transaction of its effect."""
    conn.execute(
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)",
        (key.principal, key.rpc, key.request_id, body_hash, now_us, response),
    )


def prune(conn: sqlite3.Connection, now_us: int, limit: int = _PRUNE_ROWS) -> int:
    """Removes up to `limit` answers kept for longer than `KEEP_S`, the oldest first.

    Returns how many; call again in another transaction while that is `limit`.
    """
    done = conn.execute(
        "DELETE FROM requests WHERE rowid IN "
        "(SELECT rowid FROM requests WHERE create_time_us < ? ORDER BY create_time_us LIMIT ?)",
        (now_us - KEEP_S * 1_000_000, limit),
    )
    return done.rowcount
