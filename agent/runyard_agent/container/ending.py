"""Ends a container that its client has left: killed, removed, and proven gone."""

from __future__ import annotations

import os

from runyard_agent.container import report
from runyard_agent.container.engine import Connection, EngineGone, EngineRefused
from runyard_agent.supervisor.holding import HELD

NOT_YET = 1


def main(bundle: str) -> None:
    """Leaves with 0 when the container is not held any more; the supervisor asks again else."""
    container = report.read(bundle, report.SPEC).get("container")
    if os.path.lexists(f"{bundle}/{HELD}") and isinstance(container, dict):
        try:
            report.remove(Connection(container["engine"]), container["name"])
        except (EngineGone, EngineRefused) as error:
            os.write(2, f"container {container['name']} is not proven gone: {error}\n".encode())
            os._exit(NOT_YET)
        report.let_go(bundle)
    os._exit(0)
