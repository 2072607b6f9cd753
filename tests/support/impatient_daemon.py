"""A daemon whose nodes are out of touch after a chosen time: `impatient_daemon.py HOME SECONDS`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from runyard_daemon import instance
from runyard_daemon.app import running
from runyard_daemon.config import Config
from runyard_daemon.journal import Journal, take_over_logging


async def serve(config: Config, journal: Journal) -> None:
    async with running(config, journal) as app:
        await app.run()


def main(home: Path, out_of_touch_s: float) -> None:
    os.umask(0o077)
    journal = Journal(2)
    heartbeat_s = out_of_touch_s / 3
    config = Config(home=home, out_of_touch_s=out_of_touch_s, agent_heartbeat_s=heartbeat_s)
    instance.prepare_home(home)
    lock_fd = instance.take_lock(home)
    take_over_logging(journal)
    os.chdir(home)
    try:
        asyncio.run(serve(config, journal))
    finally:
        os.close(lock_fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
