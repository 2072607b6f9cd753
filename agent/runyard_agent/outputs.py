"""The files of a run by content: outputs/, logs/ and what the script handed over by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from runyard_agent.bundles import Bundle
from runyard_agent.link import Link, Stubs
from runyard_agent.shipping.content import ContentSender, LocalFile
from runyard_agent.tree import FileState, Node, walk
from runyard_contract.errors import RunyardError, UnsafePath
from runyard_contract.paths import shown, split_rel
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

_GROWING = frozenset({"logs/stdout.txt", "logs/stderr.txt", "logs/environment.txt"})
"""Names that the run's own logs have."""
_REGISTER_FILES = 500


class OutputFiles:
    """What one attempt has written for its record, and what of it the daemon has.

    `warn` is told what a person should know.
    """

    def __init__(
        self,
        ref: pb.AttemptRef,
        bundle: Bundle,
        link: Link,
        sender: ContentSender,
        warn: Callable[[str], None],
    ) -> None:
        self._ref = ref
        self._link = link
        self._sender = sender
        self._warn = warn
        self._registered: dict[str, FileState] = {}
        self._work = bundle.work
        self._folders = {
            "outputs/": bundle.work + "/outputs",
            "logs/": bundle.work + "/logs",
            "": bundle.job + "/files",
        }

    async def collect(
        self, prefixes: Sequence[str] = ("outputs/", "logs/", ""), settle_s: float = 0
    ) -> None:
        """Sends and registers what is new or changed in these folders.

        With `settle_s` only files that have not changed for so long (the job still writes).
        """
        youngest_ns = time.time_ns() - int(settle_s * 1e9)
        found = [
            file
            for prefix in prefixes
            for file, state in self._find(prefix)
            if self._registered.get(file.name) != state
            and (not settle_s or state.mtime_ns <= youngest_ns)
        ]
        if found:
            await self.send(found)

    async def send(self, files: Sequence[LocalFile]) -> int:
        """Sends these files and registers them; returns how many were."""
        count = 0
        async for sent in self._sender.send(files):
            for file, error in sent.refused:
                self._warn(f"{shown(file.name)} was left out: {error.message}")
            for start in range(0, len(sent.files), _REGISTER_FILES):
                part = sent.files[start : start + _REGISTER_FILES]
                if await self._register([message for _, message, _ in part]):
                    count += len(part)
                    self._registered.update((file.name, state) for file, _, state in part)
        return count

    async def _register(self, messages: list[runs_pb2.RunFile]) -> bool:
        """Adds files to the run's record; one that is refused does not keep the others out."""
        request = pb.RegisterFilesRequest(ref=self._ref, files=messages)

        async def register(stubs: Stubs) -> None:
            await stubs.agent.RegisterFiles(request, metadata=stubs.metadata)

        try:
            await self._link.call(register)
        except UnsafePath as error:
            if len(messages) == 1:
                self._warn(f"{shown(messages[0].path)} was left out: {error.message}")
                return False
            return all([await self._register([message]) for message in messages])
        return True

    def _find(self, prefix: str) -> Iterator[tuple[LocalFile, FileState]]:
        """The files below one folder that can be sent, with their names in the run."""
        root = self._folders[prefix]
        for node in walk(root):
            name = prefix + node.path
            try:
                split_rel(name)
                file = self._take(root, node, name)
            except RunyardError as error:
                self._warn(f"{shown(name)} was left out: {error.message}")
                continue
            if file is not None:
                yield file

    def _take(self, root: str, node: Node, name: str) -> tuple[LocalFile, FileState] | None:
        """One file under the name that it gets in the run."""
        if name in _GROWING:
            kept_as = name.removesuffix(".txt") + ".job.txt"
            self._warn(f"the job's own {name} is kept as {kept_as}: the run's log has that name")
            name = kept_as
        if node.is_file:
            return LocalFile(root, node.path, name, node.status.st_size), node.state
        if node.is_link:
            return self._take_link(root, node, name)
        what = "a folder that can't be read" if node.is_folder else "no plain file"
        self._warn(f"{shown(name)} was left out: it is {what}")
        return None

    def _take_link(self, root: str, node: Node, name: str) -> tuple[LocalFile, FileState] | None:
        """What a link to a file of the working folder leads to; other links are left out."""
        work = os.path.realpath(self._work)
        target = os.path.realpath(os.path.join(root, node.path))
        if not target.startswith(work + "/"):
            self._warn(
                f"{shown(name)} was left out: it is a link that leads out of the working folder"
            )
            return None
        try:
            status = os.stat(target, follow_symlinks=False)
        except OSError:
            self._warn(f"{shown(name)} was left out: it is a link that leads nowhere")
            return None
        found = Node(target[len(work) + 1 :], status)
        if not found.is_file:
            self._warn(f"{shown(name)} was left out: it is a link to something that is no file")
            return None
        return LocalFile(work, found.path, name, status.st_size), found.state
