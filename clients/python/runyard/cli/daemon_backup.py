"""`runyard daemon backup` and `runyard daemon restore`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.cli.program_answer import answer_of
from runyard.cli.render.amounts import count_text, message_time, utc_time
from runyard.cli.render.status_line import StatusLine
from runyard.cli.session import connect
from runyard.cli.whole_file import whole_file, write_checked
from runyard.daemon_end import server_info
from runyard.home import home
from runyard.snapshot.limits import size_text
from runyard_contract.errors import (
    BackupInvalid,
    DaemonUnavailable,
    StateNotAllowed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runyard.channel import Connection
    from runyardpb.v1 import admin_pb2


@click.command(
    cls=Command,
    examples=[
        "runyard daemon backup runyard.backup",
        "runyard daemon backup /mnt/nas/runyard-$(date +%F).backup --json",
    ],
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def backup(ctx: click.Context, file: Path) -> None:
    """Back everything up into FILE while the daemon works.

    It holds the records as they are at one moment and all that they need: snapshots, outputs,
    logs, metrics. FILE is a tar packed with zstd; it appears under its name when it is whole and
    its bytes are on the disk. It holds what runs read and wrote, so keep it as private as those.
    """
    output = output_of(ctx)
    with whole_file(file) as written, StatusLine(output) as line:
        line.show("backing up")
        summary = _write(_pieces(connect(can_start=True)), written)
    if output.is_json:
        output.print_json(
            {
                "file": str(file.absolute()),
                "size_bytes": summary.size_bytes,
                "blake3": summary.digest,
                "time": utc_time(message_time(summary, "time")),
                "run_count": summary.run_count,
                "blob_count": summary.blob_count,
                "file_count": summary.file_count,
            }
        )
    output.say(
        f"runyard: {file} holds {count_text(summary.run_count, 'run')} "
        f"({size_text(summary.size_bytes)}); restore it with `runyard daemon restore {file}`"
    )


def _pieces(connection: Connection) -> Iterator[admin_pb2.BackUpServerResponse]:
    from runyardpb.v1 import admin_pb2, admin_pb2_grpc

    with connection.stream(
        admin_pb2_grpc.AdminServiceStub,
        lambda stub: stub.BackUpServer,
        admin_pb2.BackUpServerRequest(),
    ) as answers:
        yield from answers


def _write(
    pieces: Iterator[admin_pb2.BackUpServerResponse], written: IO[bytes]
) -> admin_pb2.BackupSummary:
    """Writes what comes; gives the summary, which says the same of the bytes as they do."""
    summary: admin_pb2.BackupSummary | None = write_checked(pieces, written)
    if summary is None:
        raise BackupInvalid(
            "the backup came in other bytes than the daemon sent",
            hint="try again",
            what="digest",
        )
    return summary


@click.command(
    cls=Command,
    examples=[
        "runyard daemon restore runyard.backup",
        "RUNYARD_HOME=/data/runyard runyard daemon restore runyard.backup",
    ],
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option("--force", is_flag=True, help="Move data that is there aside.")
@option(
    "--keep-queue",
    is_flag=True,
    help="Runs that waited go on waiting. Only where nothing was executed since the backup.",
)
@json_option
@click.pass_context
def restore(ctx: click.Context, file: Path, force: bool, keep_queue: bool) -> None:
    """Put a backup in the place of this user's data directory. No daemon may run.

    Runs that waited in the backup may have been executed since, so they are ended and never
    started again by themselves. Runs that were active go on where an agent still holds them, and
    are ended where none does.
    """
    output = output_of(ctx)
    if not file.is_file():
        raise UsageInvalid(f"{file} is no file", hint="name a file of `runyard daemon backup`")
    _refuse_running()
    arguments = [sys.executable, "-P", "-m", "runyard_daemon", "restore", "--home", str(home())]
    arguments += ["--force"] * force + ["--keep-queue"] * keep_queue
    with StatusLine(output) as line:
        line.show("restoring")
        done = subprocess.run(
            [*arguments, str(file.absolute())], stdout=subprocess.PIPE, check=False
        )
    facts = answer_of(
        done,
        BackupInvalid(
            f"the restore ended with code {done.returncode} without a word",
            hint="try again; what it wrote to stderr is above",
            what="no answer",
        ),
    )
    if output.is_json:
        output.print_json({"home": str(home()), **facts})
    output.say(f"runyard: {home()} holds {count_text(facts['run_count'], 'run')} again")
    if facts["ended_runs"]:
        output.say(
            f"runyard: {count_text(facts['ended_runs'], 'run')} that waited in the backup "
            "ended; see them with `runyard runs list`"
        )
    if facts["active_runs"]:
        output.say(
            f"runyard: {count_text(facts['active_runs'], 'run')} active in the backup will be "
            "settled with their agents"
        )
    if facts["replaced"]:
        output.say(f"runyard: what was there before is kept in {facts['replaced']}")


def _refuse_running() -> None:
    """Raises StateNotAllowed where a daemon runs: what it does next would be lost."""
    try:
        with connect(can_start=False, any_version=True) as connection:
            info = server_info(connection)
    except DaemonUnavailable:
        return
    raise StateNotAllowed(
        f"a daemon runs on this data directory (process {info.pid})",
        hint="stop it with `runyard daemon stop`, then restore",
        pid=str(info.pid),
    )
