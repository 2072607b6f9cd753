"""`runyard daemon`: serve, look at and stop the daemon. Backups are in `daemon_backup`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runyard.cli.command_line import Entry, Group, json_option, output_of
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.cli.output import STDOUT_FD, Output
from runyard.cli.parameters import AGE
from runyard.cli.render.amounts import count_text, local_time, message_time, utc_time
from runyard.cli.render.status_line import StatusLine
from runyard.cli.session import connect
from runyard.daemon_end import END_LIMIT_S, server_info, stop_server, wait_until_gone
from runyard.home import home
from runyard.snapshot.limits import size_text
from runyard_contract.addresses import AGENT_PORT, PORT, HostPort
from runyard_contract.errors import EXIT_NOT_FOUND, DaemonUnavailable

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyardpb.v1 import admin_pb2

# The daemon waits for the grace periods of what it cancels, which are an hour at most.
_CANCEL_LIMIT_S = 3700.0
# A collection reads every manifest and may copy what is left of packs.
_GARBAGE_LIMIT_S = 3600.0


@click.group(
    cls=Group,
    entries={
        "backup": Entry(
            "runyard.cli.daemon_backup", "backup", "Back everything up while the daemon works."
        ),
        "restore": Entry(
            "runyard.cli.daemon_backup", "restore", "Put a backup in the place of the data."
        ),
        "token": Entry(
            "runyard.cli.daemon_token", "token", "Make, list and end tokens of people and machines."
        ),
    },
    examples=[
        "runyard daemon status",
        "runyard daemon stop",
        "runyard daemon backup runyard.backup",
    ],
)
def daemon() -> None:
    """Serve, look at or stop the daemon, which keeps runs and their history.

    Commands that need it start it, and it ends by itself when it is not used.
    """


@daemon.command(
    examples=[
        "runyard daemon serve",
        "runyard daemon serve --listen 0.0.0.0:7443 --agent-listen 0.0.0.0:7444",
        "runyard daemon serve --metrics-file /var/lib/node_exporter/runyard.prom",
    ]
)
@option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep figures for monitoring in this file, as `runyard daemon metrics` prints them.",
)
@option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve people there, too: by TLS, with tokens. The machine itself is no target then.",
)
@option(
    "--agent-listen",
    metavar="HOST:PORT",
    help="Serve machines that join there, by TLS with certificates. Needs --listen.",
)
def serve(metrics_file: Path | None, listen: str | None, agent_listen: str | None) -> None:
    """Serve this user's data directory in the foreground, until it is stopped.

    With --listen it serves a team: make tokens with `runyard daemon token create`.
    """
    if agent_listen and not listen:
        raise UsageInvalid(
            "--agent-listen without --listen", hint="machines join at the port of --listen"
        )
    for given, port in ((listen, PORT), (agent_listen, AGENT_PORT)):
        if given:
            HostPort.parse(given, port=port)
    sys.stdout.flush()
    arguments = [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home())]
    if metrics_file is not None:
        arguments += ["--metrics-file", str(metrics_file.absolute())]
    if listen is not None:
        arguments += ["--listen", listen]
    if agent_listen is not None:
        arguments += ["--agent-listen", agent_listen]
    os.execv(sys.executable, arguments)  # noqa: S606 - the daemon takes this process's place


@daemon.command(examples=["runyard daemon status", "runyard daemon status --json"])
@json_option
@click.pass_context
def status(ctx: click.Context) -> int:
    """Say whether a daemon runs, and what it does. Starts none; the exit code is 3 without one."""
    output = output_of(ctx)
    try:
        info = server_info(connect(can_start=False, any_version=True))
    except DaemonUnavailable as error:
        if output.is_json:
            output.print_json({"is_running": False, "home": str(home())})
        output.say(f"runyard: {error.message}")
        output.say("  fix: nothing; the next command that needs one starts it")
        return EXIT_NOT_FOUND
    if output.is_json:
        output.print_json(_info_json(info))
    else:
        _print_info(output, info)
    return 0


@daemon.command(examples=["runyard daemon metrics"])
@json_option
@click.pass_context
def metrics(ctx: click.Context) -> int:
    """Print figures for monitoring, in Prometheus's text format. Starts no daemon.

    The exit code is 3 without one.
    """
    output = output_of(ctx)
    try:
        text = _exposition(connect(can_start=False, any_version=True))
    except DaemonUnavailable as error:
        if output.is_json:
            output.print_json({"exposition": None})
        output.say(f"runyard: {error.message}")
        output.say("  fix: nothing; the next command that needs one starts it")
        return EXIT_NOT_FOUND
    if output.is_json:
        output.print_json({"exposition": text})
    else:
        output.print(text.rstrip("\n"))
    return 0


@daemon.command(examples=["runyard daemon stop", "runyard daemon stop --cancel-runs"])
@option("--cancel-runs", is_flag=True, help="Cancel active runs first, and wait for their end.")
@json_option
@click.pass_context
def stop(ctx: click.Context, cancel_runs: bool) -> None:
    """Stop the daemon and its local agent, and wait until they are gone.

    Active runs go on without them, and the next command that needs a daemon adopts them.
    """
    output = output_of(ctx)
    connection = connect(can_start=cancel_runs and _may_have_runs(), any_version=True)
    with StatusLine(output) as line:
        line.show("stopping the daemon")
        try:
            limit_s = _CANCEL_LIMIT_S if cancel_runs else END_LIMIT_S
            answer = stop_server(connection, cancel_runs=cancel_runs, timeout_s=limit_s)
        except DaemonUnavailable as error:
            _say_stopped(output, f"runyard: {error.message}; there is nothing to stop", None)
            return
        wait_until_gone(answer.pids, home())
    done = f"{count_text(answer.canceled_runs, 'run')} canceled" if cancel_runs else ""
    if answer.active_runs:
        done += f"{count_text(answer.active_runs, 'run')} going on without it"
    _say_stopped(output, f"runyard: the daemon is stopped{', ' * bool(done)}{done}", answer)


@daemon.command(
    examples=["runyard daemon gc --dry-run", "runyard daemon gc", "runyard daemon gc --grace 1h"]
)
@option("--dry-run", is_flag=True, help="Only say what would be removed.")
@option(
    "--grace",
    type=AGE,
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="Keep what was stored within this time: 0, 90s, 15m, 2h, 1d.",
)
@json_option
@click.pass_context
def gc(ctx: click.Context, dry_run: bool, grace: float) -> None:
    """Remove stored content that no run, snapshot, file or upload needs.

    The daemon does so by itself every six hours. Runs and submits go on meanwhile.
    """
    output = output_of(ctx)
    connection = connect(can_start=True)
    with StatusLine(output) as line:
        line.show("looking for what nothing needs")
        found = _collect_garbage(connection, grace, is_dry_run=True)
        what = f"{count_text(found.removed_count, 'blob')} ({size_text(found.removed_bytes)})"
        if not dry_run:
            line.show(f"removing {what}")
            found = _collect_garbage(connection, grace, is_dry_run=False)
            what = f"{count_text(found.removed_count, 'blob')} ({size_text(found.removed_bytes)})"
    if output.is_json:
        output.print_json(
            {
                "is_dry_run": dry_run,
                "removed_count": found.removed_count,
                "removed_bytes": found.removed_bytes,
                "kept_count": found.kept_count,
                "kept_bytes": found.kept_bytes,
            }
        )
    kept = f"{count_text(found.kept_count, 'blob')} ({size_text(found.kept_bytes)})"
    output.say(f"runyard: {'would remove' if dry_run else 'removed'} {what}, {kept} stay")


def _collect_garbage(
    connection: Connection, grace_s: float, *, is_dry_run: bool
) -> admin_pb2.CollectGarbageResponse:
    from google.protobuf.duration_pb2 import Duration

    from runyardpb.v1 import admin_pb2, admin_pb2_grpc

    grace = Duration(seconds=int(grace_s), nanos=round(grace_s % 1 * 1e9))
    return connection.unary(
        admin_pb2_grpc.AdminServiceStub,
        lambda stub: stub.CollectGarbage,
        admin_pb2.CollectGarbageRequest(grace=grace, is_dry_run=is_dry_run),
        timeout_s=_GARBAGE_LIMIT_S,
    )


def _say_stopped(output: Output, text: str, answer: admin_pb2.StopServerResponse | None) -> None:
    output.say(text)
    if output.is_json:
        output.print_json(
            {
                "was_running": answer is not None,
                "active_runs": answer.active_runs if answer else 0,
                "canceled_runs": answer.canceled_runs if answer else 0,
                "pids": list(answer.pids) if answer else [],
            }
        )


def _may_have_runs() -> bool:
    """Whether the local agent's folder holds runs, which may go on without a daemon."""
    folder = home() / "agent" / "runs"
    return folder.is_dir() and any(folder.iterdir())


def _exposition(connection: Connection) -> str:
    from runyardpb.v1 import admin_pb2, admin_pb2_grpc

    answer = connection.unary(
        admin_pb2_grpc.AdminServiceStub,
        lambda stub: stub.GetMetrics,
        admin_pb2.GetMetricsRequest(),
    )
    return answer.exposition


def _print_info(output: Output, info: admin_pb2.GetServerInfoResponse) -> None:
    kind = "started by a command" if info.is_embedded else "served"
    output.print(output.paint("running", "green", STDOUT_FD) + f" (process {info.pid}, {kind})")
    for name, value in (
        ("version", info.version),
        ("since", local_time(message_time(info, "start_time"))),
        ("data", str(Path(os.fsdecode(info.home)))),
        (
            "runs",
            f"{info.queued_runs:,} waiting, {info.active_runs:,} active, "
            f"{info.total_runs:,} on record",
        ),
        ("agents", f"{info.connected_agents:,} connected"),
        (
            "database",
            f"{size_text(info.database_bytes)}, {size_text(info.free_database_bytes)} of it free",
        ),
        ("interpreter", info.interpreter),
        ("SQLite", info.sqlite_version),
    ):
        output.fact(name, value)
    for found in info.found_attempts:
        run_id = found.run.rpartition("/")[2]
        output.say(
            f"runyard: {found.node} holds attempt {found.attempt} of {run_id}, which is not on "
            "record (after a restore?); it goes on, and nothing ends or repeats it"
        )


def _info_json(info: admin_pb2.GetServerInfoResponse) -> dict[str, Any]:
    return {
        "is_running": True,
        "home": info.home.decode("utf-8", "backslashreplace"),
        "pid": info.pid,
        "version": info.version,
        "protocol_version": info.protocol_version,
        "start_time": utc_time(message_time(info, "start_time")),
        "queued_runs": info.queued_runs,
        "active_runs": info.active_runs,
        "total_runs": info.total_runs,
        "connected_agents": info.connected_agents,
        "sqlite_version": info.sqlite_version,
        "interpreter": info.interpreter,
        "is_embedded": info.is_embedded,
        "database_bytes": info.database_bytes,
        "free_database_bytes": info.free_database_bytes,
        "found_attempts": [
            {"run": found.run, "attempt": found.attempt, "node": found.node}
            for found in info.found_attempts
        ],
    }
