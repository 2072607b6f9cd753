"""What the script wrote outside outputs/ and logs/: summed up at its end, sent when asked for."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

from runyard_agent.bundles import Bundle
from runyard_agent.shipping.content import LocalFile
from runyard_agent.tree import Node
from runyard_agent.workdir import OWN_FOLDERS, WorkIndex, changes
from runyard_contract.errors import FileUnreadable, UnsafePath
from runyard_contract.ignore import IgnoreRules
from runyard_contract.paths import shown, split_rel
from runyardpb.v1 import runs_pb2

KEEP_WORKDIR_S = 24 * 3600.0
LISTED_FILES = 20
SMALL_FILES = 64


def changed_files(bundle: Bundle, index: WorkIndex | None = None) -> list[Node]:
    """Files of the working folder that are new or changed, by path. Blocks.

    `index` is what the folder held before; None: as it lies in the bundle.
    """
    if index is None:
        index = WorkIndex.load(bundle.work_index)
    return list(changes(bundle.work, index, _ignored(bundle.work)))


def summary(bundle: Bundle, index: WorkIndex | None = None) -> runs_pb2.WorkdirSummary:
    """The first of these files, and how many there are. Blocks."""
    found = changed_files(bundle, index)
    message = runs_pb2.WorkdirSummary(
        file_count=len(found), size_bytes=sum(node.status.st_size for node in found)
    )
    if found:
        message.expire_time.FromNanoseconds(time.time_ns() + int(KEEP_WORKDIR_S * 1e9))
    for node in found[:LISTED_FILES]:
        file = message.files.add(
            path=shown(node.path),
            size_bytes=node.status.st_size,
            is_executable=node.is_executable,
        )
        file.update_time.FromNanoseconds(max(0, node.status.st_mtime_ns))
    return message


def to_collect(bundle: Bundle, prefix: str) -> list[LocalFile]:
    """These files, to be sent under `prefix`; what no record can name is left out. Blocks."""
    files = []
    for node in changed_files(bundle):
        name = prefix + node.path
        try:
            split_rel(name)
        except UnsafePath:
            continue
        files.append(LocalFile(bundle.work, node.path, name, node.status.st_size))
    return files


def _ignored(work: str) -> Callable[[str, bool], bool]:
    """Whether the ignore rules of the source directory keep a path out of a snapshot.

    They are read at the first question: most jobs leave nothing new.
    """

    @functools.cache
    def rules() -> IgnoreRules | None:
        try:
            found = IgnoreRules.for_tree(work)
        except FileUnreadable:
            return None
        return found if found.kind is not None else None

    def is_ignored(path: str, is_folder: bool) -> bool:
        parts = path.split("/")
        top = rules()
        if top is None:
            return False
        try:
            return top.enter(parts[:-1]).decide(parts[-1], is_folder) is not None
        except FileUnreadable:  # the job has broken it meanwhile
            return False

    return is_ignored


def is_small(folder: str) -> bool:
    """Whether a working folder is looked through faster than a thread is asked to."""
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                is_other_folder = entry.name not in OWN_FOLDERS and entry.is_dir(
                    follow_symlinks=False
                )
                if count >= SMALL_FILES or is_other_folder:
                    return False
    except OSError:  # the job has removed it
        return False
    return True
