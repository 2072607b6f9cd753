"""The program that solves and installs conda packages with rattler, apart from the agent.

rattler's threads can't be cancelled; a process can be killed. Requests are lines of JSON that come
by a socket, with descriptors that this process is to keep; answers are lines of JSON on standard
output. What people may read goes to standard error, with a NUL after all about a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NoReturn, TextIO
from urllib.parse import unquote, urlsplit

import rattler
from rattler import exceptions
from rattler.install import InstallerReporter
from rattler.networking.fetch_repo_data import CacheAction

VERSIONS_SHOWN = 5
_NO_CANDIDATE = re.compile(
    r"candidates were found for (?P<first>[^\n]+?)\.?$|"
    r"\u2500 (?P<inner>[^\n]+?), for which no candidates were found",
    re.MULTILINE,
)
_FETCHED = re.compile(r"failed to fetch (?P<name>\S+?)-[^-\s]+-[^-\s]+?(?:\.conda|\.tar\.bz2)")
Answer = Mapping[str, Any]


class Failed(Exception):
    """rattler could not do it; `fault` tells the agent why."""

    def __init__(self, kind: str, error: Exception | str, **more: Any) -> None:
        self.fault = {"kind": kind, "said": str(error), **more}


class Downloads(InstallerReporter):
    """Says which packages are downloaded."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        """Remembers the package; the number stands for it."""
        self._names.append(package_name)
        return len(self._names) - 1

    def on_download_start(self, cache_entry: int) -> int:
        """Names the package."""
        print(f"Downloading {self._names[cache_entry]}", file=sys.stderr, flush=True)
        return cache_entry


class Mirrors:
    """Where channels are read instead of at their own addresses, one mirror of each at a time.

    Args:
        channels: names or URLs, in order.
        mirrors: URLs by channel, in the order in which they are tried.
    """

    def __init__(self, channels: Sequence[str], mirrors: Mapping[str, Sequence[str]]) -> None:
        self._left = {channel: list(mirrors.get(channel) or [channel]) for channel in channels}

    @property
    def sources(self) -> list[str]:
        """What is asked for each channel now."""
        return [left[0] for left in self._left.values()]

    def advance(self, failing: Sequence[str]) -> bool:
        """Goes on to the next mirror of channels; False: none of them has another."""
        is_new = False
        for left in self._left.values():
            if left[0] in failing and len(left) > 1:
                del left[0]
                is_new = True
        return is_new

    def words(self, sources: Sequence[str]) -> list[str]:
        """Channels for people, with the mirror that was asked."""
        return [
            channel if left[0] == channel else f"{channel} (its mirror {left[0]})"
            for channel, left in self._left.items()
            if left[0] in sources
        ]

    def spec(self, text: str) -> str:
        """A match spec that may name its channel, for what is asked now."""
        channel, is_of_channel, rest = text.rpartition("::")
        left = self._left.get(channel)
        return f"{left[0]}::{rest}" if is_of_channel and left else text

    def canonical(self, url: str) -> str:
        """The address of a package at the channel itself: the same on every node."""
        return self._moved(url, to_mirror=False)

    def mirrored(self, url: str) -> str:
        """The address of a package at the mirror."""
        return self._moved(url, to_mirror=True)

    def _moved(self, url: str, *, to_mirror: bool) -> str:
        for channel, left in self._left.items():
            own, other = (rattler.Channel(one).base_url for one in (channel, left[0]))
            before, after = (own, other) if to_mirror else (other, own)
            if url.startswith(before):
                return f"{after.rstrip('/')}/{url.removeprefix(before).lstrip('/')}"
        return url


async def solve(request: Mapping[str, Any]) -> Answer:
    """Finds the packages that fit the request's specs on this node."""
    mirrors = Mirrors(request["channels"], request["mirrors"])
    while True:
        try:
            return await _solve(request, mirrors)
        except exceptions.GatewayError as error:
            asked = mirrors.sources
            failing = _named_in(str(error), asked)
            if not mirrors.advance(failing):
                raise Failed("unreachable", error, channels=mirrors.words(failing)) from None
            print(f"{', '.join(failing)} can't be read; trying another mirror", file=sys.stderr)


async def _solve(request: Mapping[str, Any], mirrors: Mirrors) -> Answer:
    """The same from the mirrors that are chosen now."""
    channels, platforms = mirrors.sources, [request["subdir"], "noarch"]
    action: CacheAction = "no-cache" if request["is_refresh"] else "cache-or-fetch"
    gateway = rattler.Gateway(default_config=rattler.SourceConfig(cache_action=action))
    try:
        records = await rattler.solve(
            sources=channels,
            specs=[mirrors.spec(one) for one in request["specs"]],
            gateway=gateway,
            platforms=platforms,
            virtual_packages=rattler.VirtualPackage.detect(),
        )
    except exceptions.SolverError as error:
        lacking = await _lacking(str(error), gateway, channels, platforms)
        raise Failed("unsolvable", error, **lacking) from None
    except (exceptions.InvalidMatchSpecError, exceptions.InvalidChannelError) as error:
        raise Failed("unreadable", error) from None
    return {"packages": [_plain(one, mirrors) for one in records]}


def _named_in(said: str, channels: Sequence[str]) -> list[str]:
    """The channels of which an error speaks; all where it does not say."""
    found = [one for one in channels if rattler.Channel(one).base_url in said]
    return found or list(channels)


async def _lacking(
    said: str, gateway: rattler.Gateway, channels: Sequence[str], platforms: Sequence[Any]
) -> Answer:
    """The package that the solver misses, and the versions of it that there are, newest first.

    Empty where it misses none, or has those and they don't go together.
    """
    found = _NO_CANDIDATE.search(said)
    if found is None:
        return {}
    spec = rattler.MatchSpec(found["first"] or found["inner"])
    name = str(spec.name.normalized) if spec.name is not None else ""
    if name.startswith("__"):
        return {"lacks": str(spec), "package": name, "versions": []}
    answer = await gateway.query(channels, platforms, [name], recursive=False)
    records = [record for of_source in answer for record in of_source]
    if any(record.matches(spec) for record in records):
        return {}
    records.sort(key=lambda record: record.version, reverse=True)
    versions = [*dict.fromkeys(str(record.version) for record in records)]
    return {"lacks": str(spec), "package": name, "versions": versions[:VERSIONS_SHOWN]}


def _plain(record: rattler.RepoDataRecord, mirrors: Mirrors) -> Answer:
    """A record, with what a lock has apart."""
    digest = f"sha256:{record.sha256.hex()}" if record.sha256 else ""
    if not digest and record.md5:
        digest = record.md5.hex()
    about = json.loads(record.to_json())
    return {"url": mirrors.canonical(str(record.url)), "digest": digest, "about": about}


async def install(request: Mapping[str, Any]) -> Answer:
    """Installs the packages of a lock into the request's prefix."""
    _check_node(request["needs"])
    mirrors = Mirrors([*request["mirrors"]], request["mirrors"])
    while True:
        try:
            return await _install(request, mirrors)
        except Failed as failed:
            if not failed.fault.get("package") or not mirrors.advance(mirrors.sources):
                raise
            print(f"{failed.fault['said']}; trying another mirror", file=sys.stderr)


async def _install(request: Mapping[str, Any], mirrors: Mirrors) -> Answer:
    """The same from the mirrors that are chosen now."""
    packages = [{**one, "url": mirrors.mirrored(one["url"])} for one in request["packages"]]
    records = [_record(package) for package in packages]
    cache = rattler.PackageCache(request["cache"] or _cache_folder())
    cached = await cache.index()
    unread = [
        package
        for package, record in zip(packages, records, strict=True)
        if not cached.contains_record(record)
    ]
    await asyncio.gather(*(asyncio.to_thread(_check_file, package) for package in unread))
    try:
        await rattler.install(
            records,
            target_prefix=request["prefix"],
            package_cache=cache,
            show_progress=False,
            reporter=Downloads(),  # type: ignore[abstract]  # what it leaves out does nothing
        )
    except (exceptions.InstallerError, exceptions.LinkError, exceptions.TransactionError) as error:
        found = _FETCHED.search(str(error))
        raise Failed("uninstalled", error, package=found["name"] if found else "") from None
    return {}


def _check_node(needs: Sequence[str]) -> None:
    """Fails where the node lacks what a lock of another node was resolved with."""
    present = []
    for one in rattler.VirtualPackage.detect():
        virtual = one.into_generic()
        version = rattler.VersionWithSource(str(virtual.version))
        present.append(
            rattler.PackageRecord(virtual.name, version, virtual.build_string, 0, "noarch")
        )
    for need in needs:
        spec = rattler.MatchSpec(need)
        if not any(record.matches(spec) for record in present):
            has = [f"{one.name.normalized} {one.version}" for one in present]
            raise Failed("unfit", need, has=has)


def _cache_folder() -> str:
    """Where rattler keeps packages, as it finds it itself."""
    folder = os.environ.get("RATTLER_CACHE_DIR")
    if not folder:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = f"{caches}/rattler/cache"
    return f"{folder}/pkgs"


def _check_file(package: Mapping[str, Any]) -> None:
    """Fails where a file of a local channel is not the locked one: rattler checks what it
    downloads, but takes local files as they are.

    Not asked for packages that its cache has under the same hash: their files are not read again.
    """
    url = urlsplit(package["url"])
    path = unquote(url.path)
    kind, _, expected = package["digest"].rpartition(":")
    if url.scheme != "file" or not expected or not os.path.exists(path):
        return  # rattler says if it needs one that is gone
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind or "md5").hexdigest()
    if found != expected:
        raise Failed(
            "uninstalled",
            f"hash mismatch of {path}: {found} instead of {expected}",
            package=package["about"]["name"],
        )


def _record(package: Mapping[str, Any]) -> rattler.RepoDataRecord:
    """The record that a package of a lock was made of."""
    kind, _, value = package["digest"].rpartition(":")
    with os.fdopen(os.memfd_create("index.json"), "w") as file:
        json.dump(package["about"], file)
        file.flush()
        record = rattler.PackageRecord.from_index_json(
            f"/proc/self/fd/{file.fileno()}",  # type: ignore[arg-type]  # a path as text does
            sha256=value if kind == "sha256" else None,
            md5=value if value and not kind else None,
        )
    url = package["url"]
    path = PurePosixPath(url)
    channel = url.removesuffix(f"{path.parent.name}/{path.name}")
    return rattler.RepoDataRecord(record, path.name, url, channel)


ACTIONS: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
    "solve": solve,
    "install": install,
}


class Requests:
    """Lines from a socket, and the descriptors that come with them."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._data = b""
        self._kept_fds: list[int] = []

    def next(self) -> bytes:
        """The next line; empty when no more comes."""
        while b"\n" not in self._data:
            data, fds, _, _ = socket.recv_fds(self._source, 1 << 16, 16)
            self._kept_fds += fds
            if not data:
                return b""
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return line

    def answered(self) -> None:
        """Closes the descriptors that came with the last one: the lock of a folder is on them."""
        while self._kept_fds:
            os.close(self._kept_fds.pop())


async def serve(requests: Requests, to: TextIO) -> NoReturn:
    """Answers requests until no more come, and ends the process."""
    while line := await asyncio.to_thread(requests.next):
        request = json.loads(line)
        try:
            answer = await ACTIONS[request["action"]](request)
        except Failed as failed:
            print(failed.fault["said"].rstrip(), file=sys.stderr)
            answer = {"fault": failed.fault}
        requests.answered()
        print("", end="\0", file=sys.stderr, flush=True)
        print(json.dumps(answer), file=to, flush=True)
    # Not by the interpreter's own end, which rattler's threads don't always survive.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve(Requests(socket.socket(fileno=0)), sys.stdout))
