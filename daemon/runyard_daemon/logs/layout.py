"""Where the growing files of an attempt lie: `runs/<experiment>/<run>/<attempt>/<file>`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runyard_contract.paths import check_component, make_folder, open_dir

METRICS_SUMMARY = "metrics.summary.json"
_MODE = 0o700


class LogFile(StrEnum):
    """Files of an attempt that grow; the values are their names."""

    STDOUT = "stdout.txt"
    STDERR = "stderr.txt"
    ORDER = "order.idx"
    ENVIRONMENT = "environment.txt"
    METRICS = "metrics.jsonl"
    TAGS = "tags.jsonl"


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """Names the folder of an attempt. All parts were checked when the run was made."""

    experiment: str
    """As the run's record spells it."""
    run_id: str
    attempt: int

    @property
    def parts(self) -> tuple[str, str, str]:
        """The folder's components below `runs/`."""
        return self.experiment, self.run_id, str(self.attempt)


def folder_path(root: Path, key: AttemptKey) -> Path:
    """Gives the folder of an attempt below `root`, the data directory's `runs`."""
    return root.joinpath(*key.parts)


def open_to_append(root: Path, key: AttemptKey, file: LogFile) -> int:
    """Opens a file for writing, made with its folders where there is none; the caller closes it.

    No link is followed. Its name is durable once `folders_above` are synced.
    """
    make_folder(root, _MODE)
    folder_fd = _open_folder(root, key, create=True)
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(file.value, flags | os.O_CREAT, 0o600, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def folders_above(root: Path, key: AttemptKey) -> tuple[Path, ...]:
    """The folders that lead to the files of an attempt, the attempt's own first, `root` last."""
    folder = folder_path(root, key)
    return folder, *folder.parents[: len(key.parts)]


def open_to_read(root: Path, key: AttemptKey, name: str) -> int | None:
    """Opens a file for reading; None: there is none yet. No link is followed."""
    try:
        folder_fd = _open_folder(root, key, create=False)
    except FileNotFoundError:
        return None
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder_fd)


def remove_runs(root: Path, experiment: str, run_ids: Iterable[str]) -> None:
    """Removes the folders of runs with all in them, durably; no link is followed. Idempotent.

    Raises OSError where something can't be removed.
    """
    try:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        folder_fd = open_dir(root_fd, (experiment,))
        try:
            for run_id in run_ids:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(check_component(run_id), dir_fd=folder_fd)
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
        with contextlib.suppress(OSError):  # other runs are in it
            os.rmdir(experiment, dir_fd=root_fd)
    except FileNotFoundError:
        return
    finally:
        os.close(root_fd)


def _open_folder(root: Path, key: AttemptKey, *, create: bool) -> int:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_dir(root_fd, key.parts, create=create, mode=_MODE)
    finally:
        os.close(root_fd)
