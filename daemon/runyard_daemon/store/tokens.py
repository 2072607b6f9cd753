"""Tokens, and the machines that joined by them."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass

_COLUMNS = (
    "id, hash, role, bearer, compute, uses_left, created_by, create_time_us, "
    "expire_time_us, revoke_time_us, last_use_us"
)
_MEMBER_COLUMNS = "workspace, compute, node_id, hostname, token_id, key_hash, join_time_us"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token; times in microseconds since the Unix epoch."""

    id: str
    hash: bytes
    role: str
    """ "READER", "CONTRIBUTOR", "ADMIN" or "AGENT"."""
    bearer: str
    compute: str
    uses_left: int
    created_by: str
    create_time_us: int
    expire_time_us: int
    revoke_time_us: int | None = None
    last_use_us: int | None = None


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A machine that joined."""

    workspace: str
    compute: str
    node_id: str
    hostname: str
    token_id: str
    key_hash: bytes
    """SHA-256 of the public key that it joined with."""
    join_time_us: int


def put(conn: sqlite3.Connection, token: TokenRecord) -> None:
    """Adds a token."""
    conn.execute(
        f"INSERT INTO tokens ({_COLUMNS}) VALUES ({', '.join('?' * 11)})",
        astuple(token),
    )


def revoke(conn: sqlite3.Connection, token_id: str, now_us: int) -> None:
    """Ends a token for good."""
    conn.execute("UPDATE tokens SET revoke_time_us = ? WHERE id = ?", (now_us, token_id))


def take_use(conn: sqlite3.Connection, token_id: str) -> None:
    """Notes that a machine joined by a token."""
    conn.execute("UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?", (token_id,))


def note_use(conn: sqlite3.Connection, token_id: str, now_us: int) -> None:
    """Notes when a token was last shown."""
    conn.execute("UPDATE tokens SET last_use_us = ? WHERE id = ?", (now_us, token_id))


def every(conn: sqlite3.Connection) -> list[TokenRecord]:
    """Gives all tokens."""
    return [TokenRecord(*row) for row in conn.execute(f"SELECT {_COLUMNS} FROM tokens")]


def page(conn: sqlite3.Connection, after: tuple[int, str] | None, limit: int) -> list[TokenRecord]:
    """Gives up to `limit` tokens, the newest first, those behind `after` (time and id)."""
    time_us, token_id = after or (1 << 62, "")
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM tokens WHERE (create_time_us, id) < (?, ?) "
        "ORDER BY create_time_us DESC, id DESC LIMIT ?",
        (time_us, token_id, limit),
    )
    return [TokenRecord(*row) for row in rows]


def put_member(conn: sqlite3.Connection, member: MemberRecord) -> None:
    """Adds a machine or replaces what is known of it."""
    conn.execute(
        f"INSERT OR REPLACE INTO members ({_MEMBER_COLUMNS}) VALUES ({', '.join('?' * 7)})",
        astuple(member),
    )


def remove_member(conn: sqlite3.Connection, member: MemberRecord) -> None:
    """Forgets a machine, its node's record included."""
    key = (member.workspace, member.compute, member.node_id)
    for table in ("members", "nodes"):
        conn.execute(
            f"DELETE FROM {table} WHERE workspace = ? AND compute = ? AND node_id = ?", key
        )


def members(conn: sqlite3.Connection) -> list[MemberRecord]:
    """Gives all machines that joined."""
    rows = conn.execute(f"SELECT {_MEMBER_COLUMNS} FROM members")
    return [MemberRecord(*row) for row in rows]
