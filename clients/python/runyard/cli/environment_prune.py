"""`runyard environment prune`: remove built environments from nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.confirm import confirm
from runyard.cli.options import option
from runyard.cli.render.amounts import count_text, duration_text, utc_time
from runyard.cli.render.table import print_table
from runyard.cli.session import open_workspace
from runyard.snapshot.limits import size_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from runyard.cli.output import Output
    from runyard.environment_prune import PrunedEnvironment, PrunedNode
    from runyard.workspace import Workspace

_COLUMNS = ("NODE", "LOCK", "ENVIRONMENT", "SIZE", "BUILT", "LAST USE", "HITS")


@click.command(
    cls=Command,
    examples=[
        "runyard environment prune --older-than 30d --dry-run",
        "runyard environment prune -t local --max-size 10GiB --yes",
    ],
)
@option(
    "-t", "--target", type=parameters.COMPUTE, help="Only on nodes of this target. [all targets]"
)
@option("--older-than", type=parameters.DURATION, help="Those go that were last used longer ago.")
@option(
    "--max-size",
    type=parameters.MEMORY,
    help="Then the least recently used go, on each node, until the rest is within this size.",
)
@option("--dry-run", is_flag=True, help="Only say what would go.")
@option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    target: str | None,
    older_than: float | None,
    max_size: int | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Remove built environments from nodes, the least recently used first.

    One that a run has or waits for stays. Without --older-than and --max-size all others go. What
    was removed is built again when a run asks for it: stored environments and locks stay. Nodes
    that are not connected are named. The exit code is 1 when a connected node did not answer.
    """
    output = output_of(ctx)
    workspace = open_workspace()
    nodes = workspace.prune_environments(target, older_than, max_size, dry_run=dry_run or not yes)
    count, size_bytes = _totals(nodes)
    if count and not (dry_run or yes):
        what = f"remove {count_text(count, 'built environment')} ({size_text(size_bytes)})"
        confirm(output, what, is_agreed=False)
        nodes = workspace.prune_environments(target, older_than, max_size)
        count, size_bytes = _totals(nodes)
    if output.is_json:
        output.print_json(
            {
                "is_dry_run": dry_run,
                "freed_bytes": size_bytes,
                "nodes": [_node_json(node) for node in nodes],
            }
        )
    else:
        _show(output, workspace, nodes)
    for node in nodes:
        if node.error:
            output.say(f"runyard: {node.error}")
    freed = f"{count_text(count, 'built environment')}, {size_text(size_bytes)}"
    in_use = sum(node.in_use_count for node in nodes)
    kept = f"; {count_text(in_use, 'other')} in use" if in_use else ""
    output.say(f"runyard: {freed} {'would go' if dry_run else 'removed'}{kept}")
    return int(any(node.error and not node.is_away for node in nodes))


def _totals(nodes: Sequence[PrunedNode]) -> tuple[int, int]:
    """Number and bytes of what goes."""
    count = sum(len(node.environments) for node in nodes)
    return count, sum(node.freed_bytes for node in nodes)


def _show(output: Output, workspace: Workspace, nodes: Sequence[PrunedNode]) -> None:
    """A row for each environment that goes."""
    if not any(node.environments for node in nodes):
        return
    names = _names(workspace)
    rows = [
        (
            node.node,
            one.lock_hash[:16],
            names.get(one.lock_hash, ""),
            size_text(one.size_bytes),
            _ago(one.built_at),
            _ago(one.last_used_at),
            str(one.hits),
        )
        for node in nodes
        for one in node.environments
    ]
    print_table(output, _COLUMNS, rows, empty="")


def _names(workspace: Workspace) -> Mapping[str, str]:
    """Names of stored environments, by the hashes of their locks."""
    from runyard.cli.environment import environment_name, stored_environments

    return {
        lock.hash: environment_name(found)
        for found in stored_environments(workspace)
        for lock in found.locks
    }


def _ago(time: datetime) -> str:
    from datetime import UTC, datetime

    return f"{duration_text((datetime.now(UTC) - time).total_seconds())} ago"


def _node_json(node: PrunedNode) -> dict[str, Any]:
    return {
        "node": node.node,
        "environments": [_environment_json(one) for one in node.environments],
        "freed_bytes": node.freed_bytes,
        "left_bytes": node.left_bytes,
        "left_count": node.left_count,
        "in_use_count": node.in_use_count,
        "is_connected": not node.is_away,
        "error": node.error or None,
    }


def _environment_json(one: PrunedEnvironment) -> dict[str, Any]:
    return {
        "lock_hash": one.lock_hash,
        "size_bytes": one.size_bytes,
        "create_time": utc_time(one.built_at),
        "last_use_time": utc_time(one.last_used_at),
        "hits": one.hits,
    }
