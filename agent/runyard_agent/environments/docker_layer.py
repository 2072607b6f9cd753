"""Packages on top of an image: by the node's uv in a container of it, or copied from the node.

Part of the program that talks to the engine; see docker_program. What is installed is copied into a
fresh container, which becomes the image: neither uv nor the variables that it got are in it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.types import LogConfig

from runyard_agent.environments.docker_work import NO_LABELS, worker_labels

UV = "/runyard-uv/uv"
FILES = "/runyard-files"
CACHE = "/runyard-uv/cache"
CACHE_VOLUME = "runyard-uv-cache"
SAID_BYTES = 64 << 10
COPY_BYTES = 1 << 20
# In the image's own Python, as there may be no shell; 126 is for a uv that does not start.
_RUN = """
import json, subprocess, sys
for command in json.loads(sys.argv[1]):
    try:
        code = subprocess.call(command)
    except OSError as error:
        sys.stderr.write("uv does not start: %s\\n" % error)
        code = 126
    if code:
        sys.exit(code)
"""

Request = Mapping[str, Any]
Answer = Mapping[str, Any]


def resolve(client: docker.APIClient, request: Request) -> Answer:
    """Runs "commands" in a container of "image"; see `_ran` for the rest of the request.

    Gives "code", the end of what was said and the whole output.
    """
    with _ran(client, request) as (_container, answer):
        return answer


def install(client: docker.APIClient, request: Request) -> Answer:
    """Runs "commands", and makes an image "tag" of "image" with the folder that they have made.

    The tag is given last. Gives "image", the id, besides what `resolve` gives.
    """
    with _ran(client, request) as (container, answer):
        if answer["code"] != 0:
            return answer
        with tempfile.TemporaryFile() as archive:
            stream, _ = client.get_archive(container, request["prefix"], chunk_size=COPY_BYTES)
            for data in stream:
                archive.write(data)
            archive.seek(0)
            return {**answer, "image": _commit(client, request, archive)}


def copy(client: docker.APIClient, request: Request) -> Answer:
    """Makes an image "tag" of "image" with a copy of the node's folder "prefix", at its path.

    The tag is given last. Gives "image", the id.
    """
    prefix = request["prefix"]
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(prefix, prefix.rpartition("/")[2], filter=_of_root)
        archive.seek(0)
        return {"image": _commit(client, request, archive)}


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def _commit(client: docker.APIClient, request: Request, archive: Any) -> str:
    """Makes the image of a fresh container and an archive of "prefix"; gives its id.

    The image gets the variables "image_env" and the labels "labels".
    """
    name = f"{request['name']}-image"
    parent = request["prefix"].rpartition("/")[0]
    _remove(client, name)
    command = None if request["has_command"] else ["sh"]  # else the engine would make none
    container = client.create_container(
        request["image"],
        command,
        name=name,
        labels={**request["labels"], **request["work"], **worker_labels()},
        environment=request["image_env"],
    )["Id"]
    try:
        missing = _missing(client, container, parent)
        if missing:
            client.put_archive(container, "/", _archive(missing))
        client.put_archive(container, parent, archive)
        image = str(client.commit(container, changes=[NO_LABELS])["Id"])
        repository, _, tag = request["tag"].partition(":")
        client.tag(image, repository, tag)
        return image
    finally:
        _remove(client, name)


def _missing(client: docker.APIClient, container: str, path: str) -> list[str]:
    """The folders of a path that are not in a container; those that are keep their modes."""
    missing = []
    parts = path.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        folder = "/".join(parts[:count])
        try:
            stream, _ = client.get_archive(container, f"/{folder}")
            stream.close()
        except NotFound:
            missing.append(folder)
    return missing


@contextlib.contextmanager
def _ran(client: docker.APIClient, request: Request) -> Iterator[tuple[str, dict[str, Any]]]:
    """A container of "image" in which its "python" has run the commands; removed at the end.

    The request: "name" of the container, "uv" (path on the node), "files" by name (put into FILES),
    "binds" (folders of the node, seen read-only at the same path), "env", "network", and "work",
    labels of the container.
    """
    name = request["name"]
    _remove(client, name)
    binds = [f"{request['uv']}:{UV}:ro", f"{CACHE_VOLUME}:{CACHE}"]
    host = client.create_host_config(
        binds=[*binds, *(f"{path}:{path}:ro" for path in request["binds"])],
        network_mode=request["network"] or None,
        log_config=LogConfig(type=LogConfig.types.JSON, config={}),
    )
    container = client.create_container(
        request["image"],
        ["-c", _RUN, json.dumps(request["commands"])],
        entrypoint=[request["python"]],
        user="0",
        name=name,
        environment=request["env"],
        labels={**request["work"], **worker_labels()},
        host_config=host,
        working_dir="/",
    )["Id"]
    try:
        files = {f"{FILES[1:]}/{name}": text for name, text in request["files"].items()}
        client.put_archive(container, "/", _archive([FILES[1:]], files))
        client.start(container)
        said = bytearray()
        for data in client.logs(container, stdout=False, stream=True, follow=True):
            said += data
            del said[:-SAID_BYTES]
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
        code = int(client.wait(container)["StatusCode"])
        out = client.logs(container, stderr=False).decode("utf-8", "replace")
        yield container, {"code": code, "said": said.decode("utf-8", "replace"), "out": out}
    finally:
        _remove(client, name)


def _remove(client: docker.APIClient, name: str) -> None:
    """Removes a container, if it is there."""
    with contextlib.suppress(NotFound):
        try:
            client.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:  # somebody else is removing it
                raise


def _archive(folders: Sequence[str], files: Mapping[str, str] | None = None) -> bytes:
    """An archive of folders, and of files by their paths."""
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as tar:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, text in (files or {}).items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return to.getvalue()
