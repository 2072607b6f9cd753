"""Containers in which images are looked into and made: whose they are, and which are left over.

They bear labels that images never get, as the containers of runs inherit an image's labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runyard_agent import journal
from runyard_agent.environments.docker_api import DockerApi
from runyard_agent.supervisor.sweep import look_up

WORK = "dev.runyard.work"
"""The folder of environments that such a container works for."""
WORKER = "dev.runyard.worker"
"""The process that sees to it; no other one has these numbers."""
NO_LABELS = f'LABEL {WORK}="" {WORKER}=""'
"""What an image that is made of such a container is changed by."""


def work_labels(root: Path) -> dict[str, str]:
    """The label of containers that work for a folder.

    Agents in containers of their own may call different folders by the same path.
    """
    return {WORK: f"{root} {root.stat().st_ino}"}


def worker_labels() -> dict[str, str]:
    """The label of containers that this process sees to."""
    me = look_up(os.getpid())
    return {WORKER: f"{os.getpid()} {me.start_ticks if me is not None else 0}"}


async def remove_leftovers(api: DockerApi, root: Path) -> None:
    """Removes containers that worked for a folder and whose process is gone.

    That is a killed agent's, whose program was killed, too. Raises EnvironmentFailed where there is
    no engine.
    """
    (label,) = work_labels(root).items()
    filters = quote(json.dumps({"label": ["=".join(label)]}))
    answer = await api.call("GET", f"/containers/json?all=1&filters={filters}")
    for one in (answer.json() or ()) if answer.is_ok else ():
        if not _is_seen_to(one.get("Labels") or {}):
            removed = await api.call("DELETE", f"/containers/{one['Id']}?force=1&v=1")
            journal.info("container_left_over", name=one.get("Names"), is_removed=removed.is_ok)


def _is_seen_to(labels: Mapping[str, Any]) -> bool:
    """Whether the process of a container lives."""
    pid, _, start_ticks = str(labels.get(WORKER, "")).partition(" ")
    found = look_up(int(pid)) if pid.isdecimal() else None
    return found is not None and not found.is_zombie and str(found.start_ticks) == start_ticks
