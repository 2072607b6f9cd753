from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from runyard_contract.states import RunState
from runyard_daemon.config import Config
from runyard_daemon.core.retention import RetentionPolicy
from runyard_daemon.loops.janitor import tidy
from runyard_daemon.store import attempts, files, removal, runs
from runyard_daemon.store.attempts import AttemptRecord
from runyard_daemon.store.files import FileRecord
from runyardpb.v1 import admin_pb2, runs_pb2
from support.records import NOW_US, add_run, run_id
from support.served import WORKSPACE, Served, drained, refused, with_daemon

TABLES = ("runs", "run_specs", "run_labels", "transitions", "attempts", "run_files", "removals")


def ended_runs(count: int, experiment: str = "iris", *, size: int = 10, first: int = 1) -> Any:
    """A closure that adds ended runs with a file, labels and an attempt each."""

    def write(conn: sqlite3.Connection) -> None:
        for sequence in range(first, first + count):
            added = add_run(
                conn,
                sequence,
                experiment,
                state=RunState.COMPLETED,
                attempt=1,
                end_time_us=NOW_US + sequence,
                tags={"model": "small"},
            )
            attempt = AttemptRecord(
                run_id=added.run_id,
                attempt=1,
                epoch=sequence,
                node_id="local/n",
                grant_time_us=NOW_US,
                end_time_us=NOW_US,
                lengths={"stdout.txt": size},
            )
            attempts.insert(conn, attempt)
            files.put(conn, added.run_id, [FileRecord("outputs/a", 5, NOW_US, "00" * 32)])

    return write


def name_of(sequence: int, experiment: str = "iris") -> str:
    return f"{WORKSPACE}/experiments/{experiment}/runs/{run_id(sequence, experiment)}"


def log_folder(daemon: Served, sequence: int, experiment: str = "iris") -> Path:
    """Makes the folder of a run, with a log."""
    folder = daemon.home / "runs" / experiment / run_id(sequence, experiment)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / "stdout.txt").write_bytes(b"x" * 10)
    return folder


def left(daemon: Served) -> dict[str, int]:
    return {
        table: daemon.store.peek(
            lambda conn, table=table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        )
        for table in TABLES
    }


async def prune(daemon: Served, **fields: Any) -> list[Any]:
    fields.setdefault("parent", f"{WORKSPACE}/experiments/-")
    return await drained(daemon.runs.PruneRuns(runs_pb2.PruneRunsRequest(**fields)))


def test_delete_removes_records_and_folder_and_the_count() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(ended_runs(2))
        folder = log_folder(daemon, 1)
        before = left(daemon)

        await daemon.runs.DeleteRun(runs_pb2.DeleteRunRequest(name=name_of(1)))

        gone = await refused(daemon.runs.GetRun(runs_pb2.GetRunRequest(name=name_of(1))))
        assert gone.reason == "RUN_NOT_FOUND"
        assert not folder.exists()
        assert {table: 2 * count for table, count in left(daemon).items()} == before
        info = await daemon.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert info.total_runs == 1
        again = await refused(daemon.runs.DeleteRun(runs_pb2.DeleteRunRequest(name=name_of(1))))
        assert again.reason == "RUN_NOT_FOUND"

    with_daemon(test)


def test_delete_refuses_an_active_run_and_says_how_to_end_it() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"true")

        error = await refused(daemon.runs.DeleteRun(runs_pb2.DeleteRunRequest(name=run.name)))
        pruned = await prune(daemon, keep_last=1)

        assert error.reason == "STATE_NOT_ALLOWED"
        assert "runyard runs cancel" in error.hint
        assert [answer.chosen_runs for answer in pruned] == [0]
        assert (await daemon.run(run.name)).name == run.name

    with_daemon(test)


def test_prune_removes_the_oldest_and_says_how_far_it_is() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(ended_runs(250))

        look = await prune(daemon, keep_last=10, dry_run=True)
        done = await prune(daemon, keep_last=10)

        assert [answer.chosen_runs for answer in look] == [240]
        assert look[0].chosen_bytes == 240 * 15
        assert look[0].run_ids[0] == run_id(1)
        assert [answer.removed_runs for answer in done] == [0, 100, 200, 240]
        assert left(daemon)["runs"] == 10
        assert left(daemon)["run_files"] == 10
        assert left(daemon)["removals"] == 0

    with_daemon(test)


def test_prune_by_experiment_age_and_size() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(ended_runs(5))
        await daemon.store.write(ended_runs(5, "wine", first=10))
        parent = f"{WORKSPACE}/experiments/WINE"

        young = await prune(daemon, older_than=Duration(seconds=86_400 * 36_500))
        small = await prune(daemon, parent=parent, max_size_bytes=30)
        old = await prune(daemon, parent=f"{WORKSPACE}/experiments/iris", older_than=Duration())

        assert young[-1].chosen_runs == 0
        assert small[-1].removed_runs == 3
        assert old[-1].removed_runs == 5
        assert left(daemon)["runs"] == 2

    with_daemon(test)


def test_prune_without_a_reason_or_with_a_bad_one_is_refused() -> None:
    async def test(daemon: Served) -> None:
        for fields in (
            {},
            {"keep_last": -1},
            {"older_than": Duration(seconds=-1)},
            {"max_size_bytes": -5},
            {"keep_last": 1, "states": [runs_pb2.Run.STATE_RUNNING]},
        ):
            error = await refused(prune(daemon, **fields))
            assert error.reason == "SPEC_INVALID", fields
        unknown = await refused(prune(daemon, parent=f"{WORKSPACE}/experiments/none", keep_last=1))
        assert unknown.reason == "EXPERIMENT_NOT_FOUND"

    with_daemon(test)


def test_a_removal_that_was_cut_off_at_any_step_is_finished_by_the_next_start() -> None:
    """Each step in turn is the last one that a crash let happen."""

    async def test(daemon: Served) -> None:
        store, remover = daemon.store, daemon.app.remover
        await store.write(ended_runs(1))

        def many_files(conn: sqlite3.Connection) -> None:
            records = [FileRecord(f"outputs/{n}", 1, NOW_US, "00" * 32) for n in range(1200)]
            files.put(conn, run_id(1), records)

        await store.write(many_files)
        folder = log_folder(daemon, 1)

        await store.write(lambda conn: removal.mark(conn, [run_id(1)]))
        has_more = await store.write(lambda conn: removal.erase(conn, 500))
        assert has_more
        assert store.peek(lambda conn: runs.get(conn, run_id(1))) is not None
        await remover.finish()

        assert not folder.exists()
        assert set(left(daemon).values()) == {0}
        await remover.finish()

    with_daemon(test)


def test_the_janitor_removes_what_the_settings_say_and_gives_the_space_back() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(ended_runs(1500))
        before = await daemon.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())

        await tidy(daemon.app.live, daemon.app.remover, RetentionPolicy(keep_last=1))

        after = await daemon.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert left(daemon)["runs"] == 1
        assert before.database_bytes > 0
        assert after.free_database_bytes <= 4 << 20

    with_daemon(test)


def test_without_settings_the_janitor_removes_no_run() -> None:
    async def test(daemon: Served) -> None:
        await daemon.store.write(ended_runs(5))

        await tidy(daemon.app.live, daemon.app.remover, Config(home=daemon.home).retention)

        assert left(daemon)["runs"] == 5

    with_daemon(test)
