"""`runyard environment export` and `import`: environments for machines without any network."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.options import option
from runyard.cli.render.builds import sealed_json, sealed_text
from runyard.cli.render.status_line import StatusLine
from runyard.cli.session import open_workspace
from runyard.cli.whole_file import whole_file, write_checked
from runyard.snapshot.limits import size_text
from runyard_contract.errors import FileUnreadable, SealedInvalid
from runyard_contract.ids import EnvironmentName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runyard.workspace import Workspace
    from runyardpb.v1 import environments_pb2

_PIECE_BYTES = 1 << 20
_IMPORT_LIMIT_S = 6 * 3600.0


@click.command(
    "export",
    cls=Command,
    examples=[
        "runyard environment export iris iris.env",
        "runyard environment export iris:2 iris.env --platform linux-64",
    ],
)
@click.argument("name", metavar="NAME[:VERSION]", type=parameters.ENVIRONMENT_VERSION)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option("--platform", metavar="PLATFORM", help="Only of this platform. [all that are sealed]")
@json_option
@click.pass_context
def export_command(
    ctx: click.Context, name: tuple[str, int | None], file: Path, platform: str | None
) -> None:
    """Write a stored environment to FILE, as it was built, for `runyard environment import`.

    The environment must be sealed: `runyard environment build NAME -t TARGET --seal` has a node
    do that. FILE is a tar packed with zstd; it appears under its name when it is whole.
    """
    output = output_of(ctx)
    workspace = open_workspace()
    with whole_file(file) as written, StatusLine(output) as line:
        line.show(f"exporting {name[0]}")
        summary = _write(_pieces(workspace, *name, platform), written)
    found = summary.environment
    if output.is_json:
        output.print_json(
            {
                "file": str(file.absolute()),
                "size_bytes": summary.size_bytes,
                "blake3": summary.digest,
                **_facts(found),
            }
        )
    output.say(
        f"runyard: {file} holds {name[0]} version {found.version} for {_platforms(found)} "
        f"({size_text(summary.size_bytes)}); keep it elsewhere with "
        f"`runyard environment import {file}`"
    )


@click.command(
    "import",
    cls=Command,
    examples=[
        "runyard environment import iris.env",
        "runyard environment import iris.env --name iris-of-lab",
    ],
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option("--name", type=parameters.ENVIRONMENT, help="Store it under this name. [its own]")
@json_option
@click.pass_context
def import_command(ctx: click.Context, file: Path, name: str | None) -> None:
    """Store an environment from a file of `runyard environment export`, ready to be used.

    Every byte is verified; a file that is not whole changes nothing. Nodes lay the environment out
    without any network. Its lock takes the place of one that was resolved here.
    """
    output = output_of(ctx)
    workspace = open_workspace()
    with StatusLine(output) as line:
        line.show(f"importing {file}")
        answer = _import(workspace, file, name or "")
    found = answer.environment
    stored = EnvironmentName.parse(found.name).environment
    if output.is_json:
        output.print_json(
            {
                "name": stored,
                **_facts(found),
                "replaced_platforms": list(answer.replaced_platforms),
            }
        )
    output.say(f"runyard: stored {stored} version {found.version} for {_platforms(found)}")
    for lock in found.locks:
        if lock.HasField("sealed"):
            output.say(f"runyard: {sealed_text(lock)}")
    for platform in answer.replaced_platforms:
        output.say(
            f"runyard: its lock for {platform} took the place of another one, which was resolved "
            "here"
        )


def _pieces(
    workspace: Workspace, name: str, version: int | None, platform: str | None
) -> Iterator[environments_pb2.ExportEnvironmentResponse]:
    from runyardpb.v1 import environments_pb2, environments_pb2_grpc

    full = f"workspaces/{workspace.name}/environments/{name}"
    request = environments_pb2.ExportEnvironmentRequest(
        name=full if version is None else f"{full}/versions/{version}", platform=platform or ""
    )
    with workspace.connection.stream(
        environments_pb2_grpc.EnvironmentServiceStub,
        lambda stub: stub.ExportEnvironment,
        request,
    ) as answers:
        yield from answers


def _write(
    pieces: Iterator[environments_pb2.ExportEnvironmentResponse], written: IO[bytes]
) -> environments_pb2.EnvironmentFileSummary:
    """Writes what comes; gives the summary, which says the same of the bytes as they do."""
    summary: environments_pb2.EnvironmentFileSummary | None = write_checked(pieces, written)
    if summary is None:
        raise SealedInvalid(
            "the environment came in other bytes than the daemon sent",
            hint="try again",
            what="digest",
        )
    return summary


def _import(
    workspace: Workspace, file: Path, name: str
) -> environments_pb2.ImportEnvironmentResponse:
    from runyardpb.v1 import environments_pb2_grpc

    try:
        opened = file.open("rb")
    except OSError as error:
        raise FileUnreadable(
            f"{file} can't be read: {error.strerror}",
            hint="name a file of `runyard environment export`",
            path=str(file),
        ) from None
    with opened:
        return workspace.connection.upload(
            environments_pb2_grpc.EnvironmentServiceStub,
            lambda stub: stub.ImportEnvironment,
            _requests(f"workspaces/{workspace.name}", name, opened),
            timeout_s=_IMPORT_LIMIT_S,
        )


def _requests(
    parent: str, name: str, opened: IO[bytes]
) -> Iterator[environments_pb2.ImportEnvironmentRequest]:
    from runyardpb.v1 import environments_pb2

    yield environments_pb2.ImportEnvironmentRequest(parent=parent, environment_id=name)
    while data := opened.read(_PIECE_BYTES):
        yield environments_pb2.ImportEnvironmentRequest(data=data)


def _platforms(found: environments_pb2.Environment) -> str:
    return ", ".join(lock.platform for lock in found.locks if lock.HasField("sealed"))


def _facts(found: environments_pb2.Environment) -> dict[str, Any]:
    return {
        "version": found.version,
        "locks": [
            {"platform": lock.platform, "hash": lock.hash, "sealed": sealed_json(lock)}
            for lock in found.locks
        ],
    }
