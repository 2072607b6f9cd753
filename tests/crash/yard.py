"""A daemon with its agent on a home of its own, what it acknowledged, and how that is checked."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from crash.workload import Client, Work, check_blobs
from runyard_contract.home import socket_path
from runyard_daemon.store import connection
from support.daemon_process import DaemonProcess

LOOK_S = 0.02
DEFECTS = frozenset({"incident", "loop_failed", "background_failed"})


class Yard:
    """Use it as a context: nothing is left running behind it; the folder stays."""

    def __init__(self, folder: Path, refusals: Iterable[str] = ()) -> None:
        self.home = folder / "h"
        self.daemon = DaemonProcess(self.home)
        self.client = Client(socket_path(self.home), frozenset(refusals))
        self.acknowledged: dict[str, Work] = {}
        self._numbers = iter(range(1, 1 << 30))
        self._lock = threading.Lock()

    def submit(self) -> str:
        """Submits the next run, and returns its name when it was acknowledged."""
        with self._lock:
            work = Work(next(self._numbers))
        name = self.client.submit(work)
        with self._lock:
            assert name not in self.acknowledged, f"{name} was given to two requests"
            self.acknowledged[name] = work
        return name

    def run_one(self) -> None:
        """Submits a run and waits for its end."""
        self.client.wait_final([self.submit()])

    def keep_serving_until(
        self, jobs: Iterable[Callable[[], object]], on_death: Callable[[], None]
    ) -> None:
        """Runs jobs, each on a thread, and calls `on_death` whenever the daemon is dead."""
        with ThreadPoolExecutor() as pool:
            left = {pool.submit(job) for job in jobs}
            try:
                while left:
                    done, left = wait(left, LOOK_S, FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    if left and not self.daemon.is_alive():
                        on_death()
            except BaseException:
                self.client.close()  # so that the other jobs end too
                raise

    def settle(self, exposed: Collection[str] = ()) -> None:
        """Brings the daemon up where it is down; every acknowledged run ends, whole and once.

        Args:
            exposed: runs that met the fault themselves: they end, and how is not looked at.
        """
        if not self.daemon.is_alive():
            self.daemon.start()
        self.client.wait_final(self.acknowledged)
        for name, work in self.acknowledged.items():
            if name not in exposed:
                self.client.check_whole(name, work)
        assert sorted(self.client.names()) == sorted(self.acknowledged), "a run nobody asked for"

    def close(self) -> None:
        """Ends daemon and agent."""
        self.client.close()
        self.daemon.close()

    def check_files(self) -> int:
        """Looks at the disk while nothing runs; gives how many blobs there are."""
        check_database(self.home / "runyard.db")
        return check_blobs(self.home, self.acknowledged.values())

    def check_journal(self) -> None:
        """The daemon met no defect of its own."""
        found = [event for event in self.events() if event["event"] in DEFECTS]
        assert not found, found[0].get("traceback", found[0])

    def events(self) -> list[dict[str, Any]]:
        """The daemon's log; lines that a kill cut are left out."""
        lines = self.daemon.log.read_bytes().split(b"\n") if self.daemon.log.exists() else []
        return [json.loads(line) for line in lines if line[:1] + line[-1:] == b"{}"]

    def stop(self) -> None:
        """Ends the daemon in order, if it lives; the agent stays."""
        if self.daemon.is_alive():
            self.daemon.kill(15)

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_database(path: Path) -> None:
    """The database is whole, and refers to nothing that is missing."""
    conn = connection.connect(path)
    try:
        connection.make_writer(conn)
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        doubles = "SELECT run_id FROM runs GROUP BY run_id HAVING count(*) > 1"
        assert conn.execute(doubles).fetchall() == []
    except sqlite3.Error as error:
        raise AssertionError(f"the database is damaged: {error}") from error
    finally:
        conn.close()
