"""`runyard compute`: compute targets and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Group, json_option, output_of
from runyard.cli.output import STDOUT_FD, Output
from runyard.cli.render.amounts import local_time, utc_time
from runyard.cli.render.table import print_table
from runyard.cli.render.text import clean_line
from runyard.cli.session import open_workspace
from runyard.snapshot.limits import size_text

if TYPE_CHECKING:
    from runyard.compute import ComputeTarget
    from runyard.compute.target import ComputeNode, ComputeStatus

_TARGET_COLUMNS = ("NAME", "KIND", "STATE", "NODES", "SLOTS", "WAITING", "ACTIVE")
_NODE_COLUMNS = ("NODE", "STATE", "SLOTS", "CPUS", "MEMORY", "GPUS", "LAST SEEN", "PLATFORM")


@click.group(cls=Group, examples=["runyard compute list"])
def compute() -> None:
    """Show compute targets: the named places where runs execute."""


@compute.command("list", examples=["runyard compute list", "runyard compute list --json"])
@json_option
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """List compute targets."""
    from runyard.compute import ComputeTarget

    output = output_of(ctx)
    found = [(target, target.get_status()) for target in ComputeTarget.list(open_workspace())]
    if output.is_json:
        output.print_json([_target_json(target, status) for target, status in found])
        return
    rows = [_target_row(target, status) for target, status in found]
    print_table(output, _TARGET_COLUMNS, rows, empty="runyard: no compute targets")


@compute.command(examples=["runyard compute show local"])
@click.argument("name", metavar="TARGET", type=parameters.COMPUTE)
@json_option
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show one compute target and its nodes: what they have, and what runs hold of it."""
    from runyard.compute import ComputeTarget

    output = output_of(ctx)
    target = ComputeTarget(open_workspace(), name)
    status = target.get_status()
    if output.is_json:
        output.print_json(_target_json(target, status))
        return
    _print_target(output, target, status)


def _print_target(output: Output, target: ComputeTarget, status: ComputeStatus) -> None:
    output.print(f"{output.paint(target.name, 'bold', STDOUT_FD)} ({target.type})")
    output.fact("state", status.provisioning_state)
    output.fact("runs", f"{status.queued_runs:,} waiting, {status.active_runs:,} active")
    for error in status.errors:
        output.fact("error", error)
    accounts = sorted({node.job_account for node in status.nodes if node.job_account})
    if accounts:
        output.fact("jobs run as", ", ".join(accounts))
    print_table(
        output,
        _NODE_COLUMNS,
        [_node_row(node) for node in status.nodes],
        empty="runyard: it has no node yet; its agent has not reported",
    )
    for node in status.nodes:
        for number, gpu in enumerate(node.gpu_names):
            output.print(f"{clean_line(node.node_id)} GPU {number}: {clean_line(gpu)}")


def _target_row(target: ComputeTarget, status: ComputeStatus) -> tuple[str, ...]:
    used = sum(node.slots_used for node in status.nodes)
    slots = sum(node.slots for node in status.nodes)
    return (
        target.name,
        target.type,
        status.provisioning_state,
        str(len(status.nodes)),
        f"{used} of {slots}",
        f"{status.queued_runs:,}",
        f"{status.active_runs:,}",
    )


def _node_row(node: ComputeNode) -> tuple[str, ...]:
    return (
        node.hostname or node.node_id,
        node.state,
        f"{node.slots_used} of {node.slots}",
        f"{node.cpus_used:g} of {node.cpus:g}",
        f"{size_text(node.memory_bytes_used)} of {size_text(node.memory_bytes)}",
        f"{node.gpus_used} of {node.gpus}",
        local_time(node.last_seen_time),
        node.platform,
    )


def _target_json(target: ComputeTarget, status: ComputeStatus) -> dict[str, Any]:
    return {
        "name": target.name,
        "kind": target.type,
        "state": status.provisioning_state,
        "errors": list(status.errors),
        "create_time": utc_time(target.created_on),
        "update_time": utc_time(target.modified_on),
        "queued_runs": status.queued_runs,
        "active_runs": status.active_runs,
        "nodes": [_node_json(node) for node in status.nodes],
    }


def _node_json(node: ComputeNode) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "hostname": node.hostname,
        "state": node.state,
        "slots": node.slots,
        "slots_used": node.slots_used,
        "cpus": node.cpus,
        "cpus_used": node.cpus_used,
        "memory_bytes": node.memory_bytes,
        "memory_bytes_used": node.memory_bytes_used,
        "gpus": node.gpus,
        "gpus_used": node.gpus_used,
        "gpu_names": list(node.gpu_names),
        "platform": node.platform,
        "agent_version": node.agent_version,
        "job_account": node.job_account,
        "last_seen_time": utc_time(node.last_seen_time),
    }
