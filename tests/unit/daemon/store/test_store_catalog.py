"""What runs refer to: workspaces, experiments, environments, snapshots, files, computes."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from runyard_daemon.core.types import Resources
from runyard_daemon.store import (
    computes,
    environments,
    experiments,
    files,
    snapshots,
    workspaces,
)
from runyard_daemon.store.computes import ComputeRecord, NodeRecord
from runyard_daemon.store.environments import LockRecord
from runyard_daemon.store.files import FileRecord
from runyard_daemon.store.snapshots import DirectoryRecord, SnapshotRecord
from support.records import NOW_US, WORKSPACE, add_run, run_id

NODE = NodeRecord(
    workspace=WORKSPACE,
    compute="local",
    node_id="n1",
    hostname="host",
    platform="linux-x86_64",
    agent_version="1.0",
    boot_id="b",
    machine_id="m",
    job_account="ada",
    slots=2,
    capacity=Resources(2000, 1 << 33, 1),
    last_seen_us=NOW_US,
    gpu_names=("A100",),
)


def test_workspace_is_found_in_any_case_and_made_once(conn: sqlite3.Connection) -> None:
    made = workspaces.ensure(conn, "Lab", NOW_US)

    assert workspaces.ensure(conn, "LAB", NOW_US + 1) == made
    assert workspaces.get(conn, "lab") == made
    assert [workspace.name for workspace in workspaces.page(conn, "", 10)] == ["default", "Lab"]
    assert workspaces.page(conn, "default", 10) == [made]


def test_experiments_are_listed_by_last_use(conn: sqlite3.Connection) -> None:
    for sequence, name in enumerate(["iris", "wine", "moons", "iris"], start=1):
        add_run(conn, sequence, name)

    first = experiments.page(conn, WORKSPACE, None, 2)
    second = experiments.page(conn, WORKSPACE, first[-1].last_sequence, 2)

    assert [found.name for found in first + second] == ["iris", "moons", "wine"]
    assert first[0].run_count == 2
    assert experiments.get(conn, WORKSPACE, "IRIS") == first[0]


def test_environment_with_the_same_content_is_the_same_version(conn: sqlite3.Connection) -> None:
    first = environments.put(conn, WORKSPACE, "Sci", "h1", b"one", NOW_US)
    second = environments.put(conn, WORKSPACE, "sci", "h2", b"two", NOW_US + 1)
    again = environments.put(conn, WORKSPACE, "SCI", "h1", b"one", NOW_US + 2)
    environments.put(conn, WORKSPACE, "base", "h3", b"three", NOW_US)

    assert (first.version, second.version, again) == (1, 2, first)
    assert environments.get(conn, WORKSPACE, "sci") == second
    assert environments.get(conn, WORKSPACE, "sci", 1) == first
    assert environments.get(conn, WORKSPACE, "sci", 3) is None
    newest = environments.page(conn, WORKSPACE, "", 10)
    assert [(found.name, found.version) for found in newest] == [("base", 1), ("Sci", 2)]
    assert environments.page(conn, WORKSPACE, "base", 10) == [second]


def test_environment_takes_what_its_hash_leaves_out_from_the_newest_call(
    conn: sqlite3.Connection,
) -> None:
    first = environments.put(conn, WORKSPACE, "sci", "h1", b"one", NOW_US)
    environments.put(conn, WORKSPACE, "sci", "h2", b"two", NOW_US)

    again = environments.put(conn, WORKSPACE, "sci", "h1", b"one, elsewhere", NOW_US + 1)

    assert again == replace(first, spec=b"one, elsewhere")
    assert environments.get(conn, WORKSPACE, "sci", 1) == again


def test_lock_that_was_kept_first_counts(conn: sqlite3.Connection) -> None:
    first = LockRecord("h1", "linux-x86_64-cp311", "l1", "numpy==1", NOW_US)

    assert environments.keep_lock(conn, first) == first
    assert environments.keep_lock(conn, replace(first, hash="l2", text="numpy==2")) == first
    assert environments.locks(conn, "h1") == [first]


def test_lock_that_was_resolved_anew_takes_the_place_of_the_other(
    conn: sqlite3.Connection,
) -> None:
    first = LockRecord("h1", "linux-x86_64-cp311", "l1", "numpy==1", NOW_US)
    elsewhere = replace(first, platform="linux-x86_64-cp312", hash="l0")
    newer = replace(first, hash="l2", text="numpy==2", create_time_us=NOW_US + 1)
    for lock in (first, elsewhere):
        environments.keep_lock(conn, lock)

    assert environments.keep_lock(conn, newer, is_refresh=True) == newer
    assert environments.keep_lock(conn, newer, is_refresh=True) == newer
    assert environments.keep_lock(conn, first) == newer
    assert environments.locks(conn, "h1") == [newer, elsewhere]
    assert environments.lock_of_hash(conn, "l1") == first
    assert environments.lock_of_hash(conn, "l2") == newer
    assert environments.lock_of_hash(conn, "l3") is None
    assert environments.keep_lock(conn, first, is_refresh=True) == first
    assert environments.lock_of_hash(conn, "l2") == newer


def test_snapshot_that_was_declared_first_stays(conn: sqlite3.Connection) -> None:
    first = SnapshotRecord(WORKSPACE, "ab" * 32, 3, 100, NOW_US)

    assert snapshots.put(conn, first) == first
    assert snapshots.put(conn, replace(first, create_time_us=NOW_US + 1)) == first
    assert snapshots.get(conn, WORKSPACE, "cd" * 32) is None


def test_find_complete_gives_the_known_of_many_directories(conn: sqlite3.Connection) -> None:
    known = {f"{n:064x}": DirectoryRecord(f"{n:064x}", n, n * 10) for n in range(0, 2000, 2)}
    snapshots.add_complete(conn, known.values())

    found = snapshots.find_complete(conn, [f"{n:064x}" for n in range(2000)])

    assert found == known


def test_files_are_listed_by_path_from_a_prefix_on(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)
    paths = ["outputs/a.txt", "outputs/b%.txt", "outputs/ä", "outputs", "logs/x", "OUTPUTS/c"]
    files.put(conn, run_id(1), [FileRecord(path, 1, NOW_US, "d" * 64) for path in paths])

    first = files.page(conn, run_id(1), "outputs/", "", 2)
    second = files.page(conn, run_id(1), "outputs/", first[-1].path, 2)

    assert [file.path for file in first + second] == paths[:3]
    assert [file.path for file in files.page(conn, run_id(1), "", "", 10)] == sorted(paths)


def test_file_of_the_same_path_is_replaced(conn: sqlite3.Connection) -> None:
    add_run(conn, 1)
    files.put(conn, run_id(1), [FileRecord("outputs/m", 1, NOW_US, "a" * 64)])
    newer = FileRecord("outputs/m", 9, NOW_US + 1, "b" * 64, is_chunked=True, is_executable=True)

    files.put(conn, run_id(1), [newer])

    assert files.get(conn, run_id(1), "outputs/m") == newer
    assert files.get(conn, run_id(1), "outputs/M") is None
    assert files.paths(conn, run_id(1)) == ["outputs/m"]


def test_compute_keeps_its_creation_when_it_changes(conn: sqlite3.Connection) -> None:
    made = ComputeRecord(WORKSPACE, "local", "LOCAL", "CREATING", NOW_US, NOW_US)
    computes.put(conn, made)

    computes.put(
        conn, ComputeRecord(WORKSPACE, "LOCAL", "LOCAL", "FAILED", 0, NOW_US + 1, ("no agent",))
    )

    expected = replace(made, state="FAILED", update_time_us=NOW_US + 1, errors=("no agent",))
    assert computes.get(conn, WORKSPACE, "Local") == expected
    assert computes.page(conn, WORKSPACE, "", 10) == [expected]
    assert computes.names(conn, WORKSPACE) == ["local"]


def test_node_is_known_as_it_last_said_hello(conn: sqlite3.Connection) -> None:
    computes.put(conn, ComputeRecord(WORKSPACE, "local", "LOCAL", "SUCCEEDED", NOW_US, NOW_US))
    computes.put_node(conn, replace(NODE, slots=1))
    computes.put_node(conn, NODE)

    computes.touch_node(conn, WORKSPACE, "local", "n1", NOW_US + 5)
    computes.touch_node(conn, WORKSPACE, "local", "unknown", NOW_US + 5)

    expected = [replace(NODE, last_seen_us=NOW_US + 5)]
    assert computes.nodes(conn) == expected
    assert computes.nodes(conn, WORKSPACE, "LOCAL") == expected
    assert computes.nodes(conn, WORKSPACE, "other") == []
