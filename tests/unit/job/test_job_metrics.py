from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard_job import Run

Entries = Callable[..., list[dict[str, Any]]]


class Scalar0d:
    """What numpy's and torch's scalars and 0-d arrays have in common."""

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        return self._value


class Vector:
    def __init__(self, values: list[float]) -> None:
        self._values = values

    def tolist(self) -> list[float]:
        return self._values


class Explodes:
    def item(self) -> object:
        raise RuntimeError("CUDA error: device-side assert triggered\nsecond line")


def test_log_writes_one_line_with_time_kind_name_and_value(in_job: Run, entries: Entries) -> None:
    before = time.time()

    in_job.log("loss", 0.1)
    in_job.log("loss", 0.05, step=7)

    first, second = entries()
    assert {k: first[k] for k in "knv"} == {"k": "s", "n": "loss", "v": 0.1}
    assert "i" not in first
    assert (second["v"], second["i"]) == (0.05, 7)
    assert before - 0.001 <= first["t"] <= second["t"] <= time.time() + 0.001


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (3, 3),
        (-(2**63), -(2**63)),
        (2**63, float(2**63)),
        (1e-300, 1e-300),
        (True, 1),
        ("low", "low"),
        ('"quoted"\n\u00e9\U0001f600', '"quoted"\n\u00e9\U0001f600'),
        ("broken \ud800", "broken ?"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Scalar0d(0.25), 0.25),
        (Scalar0d(math.nan), "NaN"),
        (Scalar0d(True), 1),
    ],
)
def test_log_keeps_value(value: object, kept: object, in_job: Run, entries: Entries) -> None:
    in_job.log("m", value)
    in_job.log("m", value)  # the second call of a name takes the shorter way

    assert [entry["v"] for entry in entries()] == [kept, kept]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "NoneType is not a number or a string"),
        ([1], "list is not a number or a string"),
        (b"x", "bytes is not a number or a string"),
        (1j, ""),
        (10**400, "OverflowError"),
        ("x" * 8193, "longer than 8192 bytes"),
        (Explodes(), "RuntimeError: CUDA error: device-side assert triggered"),
        (Scalar0d([1, 2]), "not a number or a string"),
    ],
    ids=["none", "list", "bytes", "complex", "huge", "long", "raises", "vector"],
)
def test_log_leaves_out_what_cannot_be_kept_and_says_so_once(
    value: object,
    why: str,
    in_job: Run,
    entries: Entries,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.name  # unlike any other test's: each name is spoken of once a process

    in_job.log(name, value)
    in_job.log(name, value)
    in_job.log("good", 1)

    assert [entry["n"] for entry in entries()] == ["good"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("runyard: metric 'test_log_leaves_out")
    assert why in said


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a\nb",
        "a\x1b[31m",
        "a\u202eb",
        "a\u2028b",
        "\ud800",
        "x" * 256,
        "\u00e9" * 128,
        5,
        ["a"],
    ],
)
def test_invalid_names_are_left_out_and_named_in_one_line(
    name: Any, in_job: Run, entries: Entries, capsys: pytest.CaptureFixture[str]
) -> None:
    in_job.log(name, 1.0)
    in_job.log_list(name, [1.0])
    in_job.log_row("table", **{name: 1.0} if isinstance(name, str) else {"": 1.0})

    assert entries() == []
    said = capsys.readouterr().err
    assert said.count("\n") <= 2
    assert said.isascii()
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "val/loss (kWh)", "\U0001f600"])
def test_long_and_non_ascii_names_are_kept(name: str, in_job: Run, entries: Entries) -> None:
    in_job.log(name, 1.0)

    assert entries()[0]["n"] == name


def test_step_that_is_no_whole_number_is_left_out_alone(
    in_job: Run, entries: Entries, capsys: pytest.CaptureFixture[str]
) -> None:
    in_job.log("stepped", 1.0, step=0.5)  # type: ignore[arg-type]
    in_job.log("stepped", 2.0, step=Scalar0d(3))  # type: ignore[arg-type]

    assert [(e["v"], e.get("i")) for e in entries()] == [(1.0, None), (2.0, 3)]
    assert capsys.readouterr().err == (
        "runyard: step of metric 'stepped' left out: not a whole number\n"
    )


def test_log_list_keeps_lists_iterators_and_arrays(in_job: Run, entries: Entries) -> None:
    in_job.log_list("l", [1, 0.5, "a", math.inf, Scalar0d(2)])
    in_job.log_list("l", (n * n for n in range(3)))
    in_job.log_list("l", Vector([0.1, 0.2]))
    in_job.log_list("l", [])

    assert [(e["k"], e["v"]) for e in entries()] == [
        ("l", [1, 0.5, "a", "Infinity", 2]),
        ("l", [0, 1, 4]),
        ("l", [0.1, 0.2]),
        ("l", []),
    ]


def test_log_list_refuses_strings_nested_and_endless_lists(
    in_job: Run, entries: Entries, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless() -> Any:
        while True:
            yield 1

    in_job.log_list("list-text", "abc")
    in_job.log_list("list-nested", [1, [2]])
    in_job.log_list("list-endless", endless())
    in_job.log_list("list-long", range(10**12))
    in_job.log_list("list-wide", ["x" * 8000] * 100)
    in_job.log_list("list-none", None)

    assert entries() == []
    assert capsys.readouterr().err.splitlines() == [
        "runyard: metric 'list-text' left out: str is not a list",
        "runyard: metric 'list-nested' left out: value 1: list is not a number or a string",
        "runyard: metric 'list-endless' left out: the list has more than 10000 values",
        "runyard: metric 'list-long' left out: the list has more than 10000 values",
        "runyard: metric 'list-wide' left out: it takes more than 262144 bytes",
        "runyard: metric 'list-none' left out: NoneType is not a list",
    ]


def test_log_row_keeps_columns_in_order_and_ignores_the_description(
    in_job: Run, entries: Entries
) -> None:
    in_job.log_row("table", x=1, y="two", description="a table")
    in_job.log_row(name="table", x=math.nan)

    assert [(e["k"], e["n"], e["v"]) for e in entries()] == [
        ("r", "table", {"x": 1, "y": "two"}),
        ("r", "table", {"x": "NaN"}),
    ]


def test_log_row_with_a_bad_column_is_left_out_whole(
    in_job: Run, entries: Entries, capsys: pytest.CaptureFixture[str]
) -> None:
    in_job.log_row("bad-row", x=1, y=[2])
    in_job.log_row("empty-row")

    assert entries() == []
    assert capsys.readouterr().err.splitlines() == [
        "runyard: metric 'bad-row' left out: column 'y': list is not a number or a string",
        "runyard: metric 'empty-row' left out: the row has no column",
    ]


def test_lines_of_many_threads_stay_whole(in_job: Run, entries: Entries) -> None:
    def work(thread: int) -> None:
        for n in range(500):
            in_job.log(f"t{thread}", n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(
        [e["v"] for e in entries() if e["n"] == f"t{n}"] == list(range(500)) for n in range(4)
    )


def test_forked_processes_append_to_the_same_file(in_job: Run, entries: Entries) -> None:
    in_job.log("parent", 1)
    pid = os.fork()
    if pid == 0:
        for n in range(500):
            in_job.log("child", n)
        os._exit(0)
    for n in range(500):
        in_job.log("parent", n)
    os.waitpid(pid, 0)

    names = [e["n"] for e in entries()]
    assert (names.count("child"), names.count("parent")) == (500, 501)


def test_logging_goes_on_after_the_script_closed_all_descriptors(
    in_job: Run, entries: Entries, job_dir: Path
) -> None:
    in_job.log("a", 1)
    theirs = job_dir / "theirs"

    for fd in _open_fds(job_dir / "metrics.jsonl"):
        os.close(fd)
    with theirs.open("wb"):  # takes the lowest number that is free
        in_job.log("a", 2)

    assert [e["v"] for e in entries()] == [1, 2]
    assert theirs.read_bytes() == b""


def test_full_disk_is_said_once_and_later_lines_are_whole(
    job_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (job_dir / "metrics.jsonl").symlink_to("/dev/full")
    run = Run("iris_1_00000000", "iris", str(job_dir))

    for n in range(3):
        run.log("loss", n)

    assert capfd.readouterr().err == (
        "runyard: metrics.jsonl: No space left on device; values logged meanwhile are lost\n"
    )


def test_a_torn_line_costs_only_itself(job_dir: Path) -> None:
    pid = os.fork()
    if pid == 0:
        _log_across_a_size_limit(job_dir)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    lines = (job_dir / "metrics.jsonl").read_text().splitlines()
    assert [line.endswith('"v":1}') for line in lines] == [True, False, True]
    assert lines[2].startswith('{"t":')


def test_missing_job_folder_never_raises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run("iris_1_00000000", "iris", str(tmp_path / "gone"))

    run.log("loss", 1)
    run.tag("a", "b")

    assert "metrics.jsonl: No such file or directory" in capsys.readouterr().err


def _open_fds(path: Path) -> list[int]:
    return [
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{fd}") == str(path.resolve())
    ]


def _log_across_a_size_limit(job_dir: Path) -> None:
    """Writes a line, one that a file size limit cuts in two, and one after the limit is gone."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = Run("iris_1_00000000", "iris", str(job_dir))
    run.log("m", 1)
    size_bytes = (job_dir / "metrics.jsonl").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 10, hard))
    run.log("m", 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run.log("m", 1)
