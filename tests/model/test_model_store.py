"""Submits whose answers get lost, by clients that ask again, to a daemon that is killed.

Earns its place because "at most one run for a request, and none that was acknowledged is lost" is a
matter of where the daemon is killed: before the commit, between the commit and the answer, or
after. The store is the real one; a kill goes on with a copy of its files as they lay at that point.
Each seeded bug is a plausible way to write a submit and must be found.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
)

from runyard_contract.errors import RequestIdReused
from runyard_daemon.store import requests, runs, workspaces
from runyard_daemon.store.database import Store
from runyard_daemon.store.requests import RequestKey, request_key
from support.records import NOW_US, WORKSPACE, add_run, request_uuid
from support.stateful import check

Closure = Callable[[sqlite3.Connection], str]


STEPS = 15


class SubmitMachine(RuleBasedStateMachine):
    """One daemon, two principals, a few request ids, two bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-")
        self.lives = 0
        self.home = self.new_home()
        self.loop = asyncio.new_event_loop()
        self.acknowledged: dict[tuple[str, str], str] = {}
        self.bodies: dict[tuple[str, str], set[str]] = {}
        self.accepted_bodies: dict[tuple[str, str], str] = {}
        self.store = self.start()

    def teardown(self) -> None:
        self.store.close()
        self.loop.close()
        self.folder.cleanup()

    def new_home(self) -> Path:
        self.lives += 1
        home = Path(self.folder.name) / str(self.lives)
        home.mkdir()
        return home

    def start(self) -> Store:
        store = Store.open(self.home / "runyard.db")
        self.loop.run_until_complete(
            store.write(lambda conn: workspaces.ensure(conn, WORKSPACE, NOW_US))
        )
        return store

    # ---- what a seeded bug replaces

    async def submit(self, key: RequestKey, body: str, on_point: Callable[[str], None]) -> str:
        """Submits as the daemon does; tells `on_point` where it may be killed."""
        sequence = self.store.peek(runs.next_sequence)

        def closure(conn: sqlite3.Connection) -> str:
            known = requests.find(conn, key, body)
            if known is not None:
                return known.decode()
            run = add_run(conn, sequence)
            requests.keep(conn, key, body, run.run_id.encode(), NOW_US)
            on_point("before commit")
            return run.run_id

        answer = await self.store.write(closure)
        on_point("after commit")
        return answer

    # ---- what happens

    @rule(
        who=st.sampled_from(["ada", "bob"]),
        number=st.integers(1, 3),
        body=st.sampled_from(["a", "a", "a", "b"]),
        fate=st.sampled_from(["answered", "answer lost", "before commit", "after commit"]),
    )
    def ask(self, who: str, number: int, body: str, fate: str) -> None:
        """A client submits, perhaps once more; the daemon may be killed at `fate`."""
        key = request_key(who, "CreateRun", request_uuid(number))
        request = (who, key.request_id)
        killed_home: list[Path] = []

        def on_point(point: str) -> None:
            if point == fate and not killed_home:
                killed_home.append(self.copy())

        try:
            answer = self.loop.run_until_complete(self.submit(key, body, on_point))
        except RequestIdReused:
            assert self.bodies.get(request, set()) - {body}, "refused the body it was used for"
        else:
            if fate == "answered":
                self.take_answer(request, body, answer)
        self.bodies.setdefault(request, set()).add(body)
        if killed_home:
            self.store.close()
            self.home = killed_home[0]
            self.store = self.start()

    def take_answer(self, request: tuple[str, str], body: str, answer: str) -> None:
        assert self.acknowledged.setdefault(request, answer) == answer, "two runs of one request"
        assert self.accepted_bodies.setdefault(request, body) == body, "two bodies of one request"
        requests_of_run = [known for known, run in self.acknowledged.items() if run == answer]
        assert requests_of_run == [request], "two requests of one run"

    def copy(self) -> Path:
        """The files as a kill would leave them now."""
        home = self.new_home()
        for name in ("runyard.db", "runyard.db-wal"):
            if (self.home / name).exists():
                shutil.copy(self.home / name, home / name)
        return home

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.start()

    # ---- what must hold

    @invariant()
    def acknowledged_runs_are_there(self) -> None:
        for run_id in self.acknowledged.values():
            assert self.store.peek(lambda conn, run_id=run_id: runs.get(conn, run_id)) is not None

    @invariant()
    def each_request_has_at_most_one_run(self) -> None:
        def count(conn: sqlite3.Connection) -> tuple[int, int]:
            (runs_there,) = conn.execute("SELECT count(*) FROM runs").fetchone()
            (requests_there,) = conn.execute("SELECT count(*) FROM requests").fetchone()
            return runs_there, requests_there

        runs_there, requests_there = self.store.peek(count)
        assert runs_there == requests_there


class KeepsTheAnswerApart(SubmitMachine):
    async def submit(self, key: RequestKey, body: str, on_point: Callable[[str], None]) -> str:
        known = self.store.peek(lambda conn: requests.find(conn, key, body))
        if known is not None:
            return known.decode()
        sequence = self.store.peek(runs.next_sequence)
        run = await self.store.write(lambda conn: add_run(conn, sequence))
        on_point("before commit")
        await self.store.write(
            lambda conn: requests.keep(conn, key, body, run.run_id.encode(), NOW_US)
        )
        on_point("after commit")
        return run.run_id


class AnswersBeforeTheCommit(SubmitMachine):
    async def submit(self, key: RequestKey, body: str, on_point: Callable[[str], None]) -> str:
        def also_tell(point: str) -> None:
            if point == "before commit":
                self.acknowledged.setdefault(
                    (key.principal, key.request_id),
                    f"iris_1764000000_{sequence:08x}",
                )
            on_point(point)

        sequence = self.store.peek(runs.next_sequence)
        return await super().submit(key, body, also_tell)


class IgnoresThePrincipal(SubmitMachine):
    async def submit(self, key: RequestKey, body: str, on_point: Callable[[str], None]) -> str:
        shared = RequestKey("anyone", key.rpc, key.request_id)
        return await super().submit(shared, body, on_point)


class IgnoresTheBody(SubmitMachine):
    async def submit(self, key: RequestKey, body: str, on_point: Callable[[str], None]) -> str:
        return await super().submit(key, "any", on_point)


def test_request_makes_one_run_and_keeps_it_whatever_is_lost() -> None:
    check(SubmitMachine, 15, steps=STEPS, is_seeded=False)


@pytest.mark.slow
def test_request_makes_one_run_and_keeps_it_in_many_histories() -> None:
    check(SubmitMachine, 200, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        KeepsTheAnswerApart,
        AnswersBeforeTheCommit,
        IgnoresThePrincipal,
        pytest.param(IgnoresTheBody, marks=pytest.mark.slow),
    ],
)
def test_submit_model_finds_a_broken_submit(bug: type[SubmitMachine]) -> None:
    with pytest.raises(AssertionError):
        check(bug, 400, steps=STEPS, is_seeded=True)
