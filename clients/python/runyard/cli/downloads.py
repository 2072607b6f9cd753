"""Fetches files of a run to a folder on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from runyard.cli.output import Output
from runyard.cli.render.amounts import count_text
from runyard.cli.render.status_line import StatusLine
from runyard.cli.render.text import clean_line
from runyard.run_files import download_below, list_files
from runyard.snapshot.limits import size_text
from runyard_contract.errors import RunFileNotFound
from runyard_contract.nearest import nearest

if TYPE_CHECKING:
    from runyard.records import RunFile
    from runyard.run import Run

OUTPUTS = "outputs/"
WORKDIR = "workdir/"


def collect_workdir(run: Run) -> None:
    """Has the node bring what the script left in its working folder into the run's record.

    Raises NodeUnreachable, or RunFileNotFound where nothing is kept any more.
    """
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    run.experiment.workspace.connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.CollectWorkdir,
        runs_pb2.CollectWorkdirRequest(name=str(run.record.name)),
    )


def download_files(run: Run, paths: Sequence[str], folder: str, output: Output) -> None:
    """Fetches the files at these paths, each a file or a folder of the run, below a folder.

    Raises RunFileNotFound, with the nearest path, before anything is fetched.
    """
    connection = run.experiment.workspace.connection
    name = str(run.record.name)
    files = {file.path: file for path in paths for file in _files_at(run, path)}
    saved = []
    size_bytes = 0
    with StatusLine(output) as status:
        for number, file in enumerate(files.values(), 1):
            status.show(f"{number:,} of {len(files):,}: {file.path}")
            target = download_below(connection, name, file, folder)
            saved.append({"path": file.path, "saved_as": target, "size_bytes": file.size_bytes})
            size_bytes += file.size_bytes
    if output.is_json:
        output.print_json(saved)
        return
    if not saved:
        output.say(f"runyard: {run.id} has no files in outputs/; `runyard runs files` lists all")
        return
    for one in saved:
        output.print(clean_line(str(one["saved_as"])))
    output.say(f"runyard: {count_text(len(saved), 'file')} ({size_text(size_bytes)}) fetched")


def _files_at(run: Run, path: str) -> Iterator[RunFile]:
    """The file of this path, or all files below it; none is an error, but for all of outputs/."""
    connection = run.experiment.workspace.connection
    name = str(run.record.name)
    folder = path.rstrip("/") + "/"
    found = False
    for file in list_files(connection, name, folder.rstrip("/")):
        if file.path.startswith(folder) or file.path == path:
            found = True
            yield file
    if not found and path != OUTPUTS:
        known = [file.path for file in list_files(connection, name)]
        error = RunFileNotFound.named(path, nearest(path, known))
        error.hint = f"list what there is with `runyard runs files {run.id}`"
        raise error
