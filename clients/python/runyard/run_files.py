"""Files of a run: listed, fetched with every byte checked, and added."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from runyard._convert import run_file
from runyard.records import RunFile
from runyard.snapshot.hashing import ContentHasher, hash_file, read_small_file
from runyard_contract.errors import (
    DigestMismatch,
    FileUnreadable,
    RunFileNotFound,
    SpecInvalid,
    UnsafePath,
)
from runyard_contract.limits import PAGE_SIZE_MAX
from runyard_contract.paths import create_file_at, open_dir, shown, split_rel, write_all
from runyardpb.v1 import common_pb2, runs_pb2, runs_pb2_grpc

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.snapshot.hashing import HashedFile

PathOrStream = str | os.PathLike[str] | IO[bytes]
_COPY_BYTES = 1 << 20
_TRIES = 5


def list_files(connection: Connection, run_name: str, prefix: str = "") -> Iterator[RunFile]:
    """The files of a run whose paths begin with `prefix`, in order of path."""
    request = runs_pb2.ListRunFilesRequest(parent=run_name, page_size=PAGE_SIZE_MAX, prefix=prefix)
    while True:
        answer = connection.unary(
            runs_pb2_grpc.RunServiceStub, lambda stub: stub.ListRunFiles, request
        )
        yield from map(run_file, answer.files)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def find_file(connection: Connection, run_name: str, path: str) -> RunFile:
    """The file of this path, or RunFileNotFound with the nearest one."""
    from runyard_contract.nearest import nearest

    names: list[str] = []
    for file in list_files(connection, run_name):
        if file.path == path:
            return file
        names.append(file.path)
    raise RunFileNotFound.named(path, nearest(path, names))


def download(connection: Connection, run_name: str, file: RunFile, target: str) -> None:
    """Writes a file of a run to `target`, a path that the user chose; an old file is replaced.

    Raises DigestMismatch where what arrives is not what the run's record says.
    """
    folder, name = os.path.split(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _write_at(connection, run_name, file, folder_fd, name)
    finally:
        os.close(folder_fd)


def download_below(connection: Connection, run_name: str, file: RunFile, root: str) -> str:
    """Writes a file of a run below the folder `root`, under its own path; returns where.

    The path comes from the other side: UnsafePath for one that leads out, by its spelling or
    through a link that lies in `root`.
    """
    parts = split_rel(file.path)
    os.makedirs(root, exist_ok=True)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder_fd = open_dir(root_fd, parts[:-1], create=True)
    finally:
        os.close(root_fd)
    try:
        _write_at(connection, run_name, file, folder_fd, parts[-1])
    finally:
        os.close(folder_fd)
    return os.path.join(root, *parts)


def download_into(connection: Connection, run_name: str, file: RunFile, folder: str) -> str:
    """Writes a file of a run in a folder, under the last component of its path; returns where."""
    name = split_rel(file.path)[-1]
    target = os.path.join(folder, name)
    download(connection, run_name, file, target)
    return target


def _write_at(
    connection: Connection, run_name: str, file: RunFile, folder_fd: int, name: str
) -> None:
    """Writes a file in an open folder: whole and checked, or not at all."""
    temporary = f".{name[:100]}.{os.urandom(4).hex()}.part"
    fd = create_file_at(folder_fd, temporary, 0o777 if file.is_executable else 0o666)
    try:
        try:
            _receive(connection, run_name, file, fd)
        finally:
            os.close(fd)
        _replace(folder_fd, temporary, name, file.path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder_fd)
        raise


def _replace(folder_fd: int, temporary: str, name: str, path: str) -> None:
    """Gives the file its name; a folder of that name is an error."""
    try:
        os.replace(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except IsADirectoryError:
        raise UnsafePath(
            f"{shown(path)} can't be written: there is a folder of that name",
            hint="choose another output folder",
            path=shown(path),
        ) from None


def _receive(connection: Connection, run_name: str, file: RunFile, fd: int) -> None:
    """Copies the file's bytes to a descriptor and checks them."""
    hasher = ContentHasher()
    offset_bytes = 0

    def receive_rest() -> None:
        nonlocal offset_bytes
        for data in _read(connection, run_name, file.path, offset_bytes):
            write_all(fd, data)
            hasher.update(data)
            offset_bytes += len(data)

    connection.repeated(receive_rest, _TRIES)
    if file.digest is not None and hasher.result()[0] != file.digest:
        raise DigestMismatch(
            f"{shown(file.path)} arrived damaged ({offset_bytes} of {file.size_bytes} bytes)",
            hint="try again; if it stays so, see `runyard doctor`",
            path=shown(file.path),
        )


def _read(connection: Connection, run_name: str, path: str, offset_bytes: int) -> Iterator[bytes]:
    """The bytes of a file from an offset on."""
    request = runs_pb2.ReadRunFileRequest(name=run_name, path=path, offset_bytes=offset_bytes)
    with connection.stream(
        runs_pb2_grpc.RunServiceStub, lambda stub: stub.ReadRunFile, request
    ) as answers:
        for answer in answers:
            yield answer.data


def upload(connection: Connection, run_name: str, name: str, content: PathOrStream) -> None:
    """Adds a file, or what an open stream still holds, to a run as `name`."""
    split_rel(name)
    if isinstance(content, str | os.PathLike):
        _upload_path(connection, run_name, name, os.fspath(content))
        return
    with tempfile.NamedTemporaryFile(prefix="runyard-") as copy:
        _copy(content, copy)
        copy.flush()
        _upload_path(connection, run_name, name, copy.name)


def _copy(source: Any, target: IO[bytes]) -> None:
    """Copies what an open stream still holds. SpecInvalid for what is no binary stream."""
    is_binary = hasattr(source, "read")
    while is_binary and (data := source.read(_COPY_BYTES)):
        is_binary = isinstance(data, bytes)
        if is_binary:
            target.write(data)
    if not is_binary:
        raise SpecInvalid(
            f"upload_file takes a path or an open binary file, not {type(source).__name__}",
            hint='open the file with mode "rb"',
        )


def _upload_path(connection: Connection, run_name: str, name: str, path: str) -> None:
    """Adds a file on this machine to a run."""
    folder, base = os.path.split(os.path.realpath(path))
    hashed = hash_file(folder, base)
    if hashed is None:
        raise FileUnreadable(f"there is no file {shown(path)}", path=shown(path))
    connection.repeated(lambda: _send(connection, folder, base, hashed), _TRIES)
    connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.AddRunFiles,
        runs_pb2.AddRunFilesRequest(name=run_name, files=[_message(name, hashed)]),
    )


def _send(connection: Connection, folder: str, base: str, hashed: HashedFile) -> None:
    """Sends what the daemon lacks of a file."""
    from runyard.snapshot.upload import Uploader, chunked_blobs

    uploader = Uploader(connection)
    if uploader.missing([hashed.digest]):
        blobs = (
            chunked_blobs(folder, base, hashed.digest, uploader.missing)
            if hashed.is_chunked
            else iter([(hashed.digest, read_small_file(folder, base, hashed.digest))])
        )
        uploader.send(blobs, hashed.size_bytes)


def _message(name: str, hashed: HashedFile) -> runs_pb2.RunFile:
    """The record of a file to add."""
    return runs_pb2.RunFile(
        path=name,
        size_bytes=hashed.size_bytes,
        content=common_pb2.FileContent(
            digest=bytes.fromhex(hashed.digest),
            size_bytes=hashed.size_bytes,
            is_chunked=hashed.is_chunked,
        ),
        is_executable=hashed.is_executable,
    )
