from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_contract.states import RunState
from runyard_daemon.store import labels, listing
from runyard_daemon.store.listing import NamePattern, RunFilter
from runyard_daemon.store.runs import RunRecord
from support.records import NOW_US, WORKSPACE, add_run, fresh_database

STATES = (RunState.QUEUED, RunState.RUNNING, RunState.FAILED, RunState.COMPLETED)
LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["1", "2"]))
WANTED_LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "1", "2"]))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    return fresh_database(tmp_path_factory.mktemp("db") / "runyard.db")


@st.composite
def run_fields(draw: st.DrawFn) -> dict[str, object]:
    return {
        "experiment": draw(st.sampled_from(["iris", "wine"])),
        "state": draw(st.sampled_from(STATES)),
        "compute": draw(st.sampled_from(["local", "gpu1"])),
        "tags": draw(LABELS),
        "properties": draw(LABELS),
        "display_name": draw(st.sampled_from(["base", "baseline", "other"])),
        "create_time_us": NOW_US + draw(st.integers(0, 4)),
    }


@st.composite
def filters(draw: st.DrawFn) -> RunFilter:
    return RunFilter(
        WORKSPACE,
        experiment=draw(st.sampled_from(["", "IRIS", "wine", "none"])),
        states=draw(st.frozensets(st.sampled_from(STATES), max_size=3)),
        compute=draw(st.sampled_from(["", "local", "GPU1"])),
        tags=draw(WANTED_LABELS),
        properties=draw(WANTED_LABELS),
        name=draw(
            st.none()
            | st.builds(NamePattern, st.sampled_from(["base", "iris_", "%", "none"]), st.booleans())
        ),
        from_sequence=draw(st.integers(0, 14)),
        created_from_us=draw(st.none() | st.integers(NOW_US, NOW_US + 4)),
        created_before_us=draw(st.none() | st.integers(NOW_US, NOW_US + 4)),
    )


def fits(name: NamePattern, text: str) -> bool:
    return text.startswith(name.text) if name.is_beginning else text == name.text


def matches(run: RunRecord, wanted: RunFilter) -> bool:
    """What a listing has, said again without SQL."""
    return (
        wanted.experiment.lower() in ("", run.experiment.lower())
        and (not wanted.states or run.state in wanted.states)
        and wanted.compute.lower() in ("", run.compute.lower())
        and (
            wanted.name is None or any(fits(wanted.name, n) for n in (run.display_name, run.run_id))
        )
        and run.sequence >= wanted.from_sequence
        and (wanted.created_from_us or 0) <= run.create_time_us
        and run.create_time_us < (wanted.created_before_us or NOW_US * 2)
        and all(
            key in has and value in ("", has[key])
            for want, has in ((wanted.tags, run.tags), (wanted.properties, run.properties))
            for key, value in want.items()
        )
    )


def walk(
    conn: sqlite3.Connection, wanted: RunFilter, limit: int, is_oldest_first: bool
) -> list[RunRecord]:
    found: list[RunRecord] = []
    while page := listing.page(
        conn,
        wanted,
        found[-1].sequence if found else None,
        limit,
        is_oldest_first=is_oldest_first,
    ):
        assert len(page) <= limit
        found += page
    return found


@settings(max_examples=60)
@given(st.lists(run_fields(), max_size=12), filters(), st.integers(1, 5), st.booleans())
def test_pages_give_every_matching_run_once_in_order(
    shared: sqlite3.Connection,
    fields: list[dict[str, object]],
    wanted: RunFilter,
    limit: int,
    is_oldest_first: bool,
) -> None:
    conn = shared
    conn.execute("BEGIN")
    stored = [add_run(conn, n, **fields[n - 1]) for n in range(1, len(fields) + 1)]  # type: ignore[arg-type]

    found = walk(conn, wanted, limit, is_oldest_first)

    conn.execute("ROLLBACK")
    matching = [run for run in stored if matches(run, wanted)]
    assert found == (matching if is_oldest_first else matching[::-1])


def test_pages_do_not_shift_when_runs_are_submitted_meanwhile(conn: sqlite3.Connection) -> None:
    for n in range(1, 11):
        add_run(conn, n)

    first = listing.page(conn, RunFilter(WORKSPACE), None, 4)
    add_run(conn, 11)
    second = listing.page(conn, RunFilter(WORKSPACE), first[-1].sequence, 4)

    assert [run.sequence for run in first + second] == [10, 9, 8, 7, 6, 5, 4, 3]


def test_listing_follows_a_tag_that_changes(conn: sqlite3.Connection) -> None:
    run = add_run(conn, 1, tags={"stage": "draft"})
    labels.set_tags(conn, run.run_id, {"stage": "final"})

    def found(value: str) -> int:
        return len(listing.page(conn, RunFilter(WORKSPACE, tags={"stage": value}), None, 10))

    assert (found("draft"), found("final"), found("")) == (0, 1, 1)
    labels.set_tags(conn, run.run_id, {}, remove=["stage"])
    assert (found("final"), found("")) == (0, 0)


def test_page_reads_only_its_own_rows_when_there_are_many(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN")
    for n in range(1, 3001):
        add_run(conn, n, state=RunState.COMPLETED if n % 2 else RunState.FAILED)
    conn.execute("COMMIT")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for wanted in (
        RunFilter(WORKSPACE),
        RunFilter(WORKSPACE, experiment="iris"),
        RunFilter(WORKSPACE, states=frozenset({RunState.FAILED, RunState.CANCELED})),
        RunFilter(WORKSPACE, compute="local"),
    ):
        steps = 0
        conn.set_progress_handler(count, 100)
        assert len(listing.page(conn, wanted, 2000, 50)) == 50
        conn.set_progress_handler(None, 0)
        assert steps * 100 < 60 * 100, wanted  # some 40 instructions of SQLite for each row
