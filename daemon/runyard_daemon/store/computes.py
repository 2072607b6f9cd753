"""Compute targets and the machines that joined them."""

# ruff: noqa: S608  names of columns are constants of this module, values are bound

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runyard_daemon.core.types import Resources
from runyard_daemon.store import details

_COLUMNS = "workspace, name, kind, state, errors, create_time_us, update_time_us"
_NODE_COLUMNS = (
    "workspace, compute, node_id, hostname, platform, agent_version, boot_id, machine_id, "
    "job_account, slots, cpu_millis, memory_bytes, gpus, gpu_names, last_seen_us"
)
_PUT = f"""
    INSERT INTO computes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (workspace, name) DO UPDATE SET kind = excluded.kind, state = excluded.state,
        errors = excluded.errors, update_time_us = excluded.update_time_us
"""
_PUT_NODE = f"INSERT OR REPLACE INTO nodes ({_NODE_COLUMNS}) VALUES ({', '.join('?' * 15)})"


@dataclass(frozen=True, slots=True)
class ComputeRecord:
    """A compute target."""

    workspace: str
    name: str
    kind: str
    """ "LOCAL"."""
    state: str
    """ "CREATING", "SUCCEEDED" or "FAILED"."""
    create_time_us: int
    update_time_us: int
    errors: tuple[str, ...] = ()
    """Why it is not ready, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A machine with an agent, as it last said hello."""

    workspace: str
    compute: str
    node_id: str
    hostname: str
    platform: str
    agent_version: str
    boot_id: str
    machine_id: str
    job_account: str
    slots: int
    capacity: Resources
    last_seen_us: int
    gpu_names: tuple[str, ...] = ()


def put(conn: sqlite3.Connection, compute: ComputeRecord) -> None:
    """Adds a target, or changes all of it but its name and `create_time_us`."""
    conn.execute(
        _PUT,
        (
            compute.workspace,
            compute.name,
            compute.kind,
            compute.state,
            details.encode_texts(compute.errors),
            compute.create_time_us,
            compute.update_time_us,
        ),
    )


def get(conn: sqlite3.Connection, workspace: str, name: str) -> ComputeRecord | None:
    """Gives a target, in whatever case its name is given; None: there is none."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM computes WHERE workspace = ? AND name = ?",
        (workspace, name),
    ).fetchone()
    return _from_row(row) if row else None


def page(conn: sqlite3.Connection, workspace: str, after: str, limit: int) -> list[ComputeRecord]:
    """Gives up to `limit` targets by name, those behind `after` (empty: from the first)."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM computes WHERE workspace = ? AND name > ? ORDER BY name LIMIT ?",
        (workspace, after, limit),
    )
    return [_from_row(row) for row in rows]


def names(conn: sqlite3.Connection, workspace: str) -> list[str]:
    """Gives all names, to suggest the nearest."""
    rows = conn.execute("SELECT name FROM computes WHERE workspace = ? ORDER BY name", (workspace,))
    return [name for (name,) in rows]


def put_node(conn: sqlite3.Connection, node: NodeRecord) -> None:
    """Adds a machine or replaces what is known of it."""
    conn.execute(
        _PUT_NODE,
        (
            node.workspace,
            node.compute,
            node.node_id,
            node.hostname,
            node.platform,
            node.agent_version,
            node.boot_id,
            node.machine_id,
            node.job_account,
            node.slots,
            node.capacity.cpu_millis,
            node.capacity.memory_bytes,
            node.capacity.gpus,
            details.encode_texts(node.gpu_names),
            node.last_seen_us,
        ),
    )


def touch_node(
    conn: sqlite3.Connection, workspace: str, compute: str, node_id: str, last_seen_us: int
) -> None:
    """Notes when a machine was last heard of. Nothing happens where it is not known."""
    conn.execute(
        "UPDATE nodes SET last_seen_us = ? WHERE workspace = ? AND compute = ? AND node_id = ?",
        (last_seen_us, workspace, compute, node_id),
    )


def node_name(conn: sqlite3.Connection, workspace: str, node_id: str) -> str:
    """What people call a node, `target/host`, from the id that attempts name it by."""
    compute, _, name = node_id.partition("/")
    row = conn.execute(
        "SELECT hostname FROM nodes WHERE workspace = ? AND compute = ? AND node_id = ?",
        (workspace, compute, name),
    ).fetchone()
    return f"{compute}/{row[0]}" if row else node_id


def nodes(
    conn: sqlite3.Connection, workspace: str | None = None, compute: str | None = None
) -> list[NodeRecord]:
    """Gives the machines of a target, of a workspace or of all, in order of their ids."""
    rows = conn.execute(
        f"SELECT {_NODE_COLUMNS} FROM nodes "
        "WHERE (?1 IS NULL OR workspace = ?1) AND (?2 IS NULL OR compute = ?2) "
        "ORDER BY workspace, compute, node_id",
        (workspace, compute),
    )
    return [
        NodeRecord(
            workspace=row[0],
            compute=row[1],
            node_id=row[2],
            hostname=row[3],
            platform=row[4],
            agent_version=row[5],
            boot_id=row[6],
            machine_id=row[7],
            job_account=row[8],
            slots=row[9],
            capacity=Resources(row[10], row[11], row[12]),
            gpu_names=details.decode_texts(row[13]),
            last_seen_us=row[14],
        )
        for row in rows
    ]


def _from_row(row: Sequence[Any]) -> ComputeRecord:
    return ComputeRecord(
        row[0], row[1], row[2], row[3], row[5], row[6], details.decode_texts(row[4])
    )
