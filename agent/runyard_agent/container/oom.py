"""Hears from the engine that a container has reached its memory limit.

The kernel kills one process of it, for which others may wait for ever.
"""

from __future__ import annotations

import threading
import time

from runyard_agent.container.engine import Connection, EngineGone, EngineRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.5


def listen(engine: str, name: str, end: Callable[[], None]) -> None:
    """Calls `end`, in a thread, once the limit of the container `name` was reached, from now on.

    Goes on through restarts of the engine.
    """
    filters = f'{{"container":["{name}"],"event":["oom"]}}'
    for char, code in (("{", "%7B"), ("}", "%7D"), ('"', "%22"), ("[", "%5B"), ("]", "%5D")):
        filters = filters.replace(char, code)
    path = f"/events?since={int(time.time())}&filters={filters}"

    def hear() -> None:
        while True:
            try:
                connection = Connection(engine)
                connection.wait_for_ever()
                for _ in connection.stream(path):
                    end()
                    return
            except (EngineGone, EngineRefused):
                pass  # whoever waits for the container's end finds out why
            time.sleep(PAUSE_S)

    threading.Thread(target=hear, name="oom", daemon=True).start()
