from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard_job import NotInRun, OfflineRun, Run

Entries = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("RUNYARD_RUN_ID", raising=False)
    monkeypatch.delenv("RUNYARD_JOB_DIR", raising=False)
    return Run.get_context()


def test_get_context_in_a_job_gives_its_run(in_job: Run) -> None:
    assert in_job.id == "iris_1764000000_0a1b2c3d"
    assert in_job.experiment.name == "iris"
    assert str(in_job.experiment) == "iris"
    assert not isinstance(in_job, OfflineRun)
    assert Run.get_context(allow_offline=False) is in_job
    in_job.flush()
    in_job.complete()


def test_get_context_outside_a_job_gives_one_offline_run(offline: Run) -> None:
    assert isinstance(offline, OfflineRun)
    assert offline.id.startswith("OfflineRun_")
    assert len(offline.id) == len("OfflineRun_") + 36
    assert Run.get_context() is offline


def test_get_context_outside_a_job_raises_when_offline_is_not_allowed(offline: Run) -> None:
    with pytest.raises(NotInRun, match="`runyard run`"):
        Run.get_context(allow_offline=False)


def test_offline_run_prints_what_a_job_would_keep(
    offline: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    offline.log("loss", 0.5)
    offline.log_list("l", [1, 2])
    offline.log_row("r", x=1)
    offline.tag("a", "b")
    offline.set_tags({"c": None})
    offline.add_properties({"p": "1"})
    offline.upload_file("outputs/m.pkl", "m.pkl")
    offline.upload_folder("outputs", "out")
    offline.flush()
    offline.complete()

    assert capsys.readouterr().out == (
        "Attempted to log scalar metric loss:\n0.5\n"
        "Attempted to log list metric l:\n[1, 2]\n"
        "Attempted to log row metric r:\n{'x': 1}\n"
        "Attempted to set tags {'a': 'b'}\n"
        "Attempted to set tags {'c': None}\n"
        "Attempted to add properties {'p': '1'}\n"
        "Attempted to track file outputs/m.pkl at m.pkl\n"
        "Attempted to track folder outputs at out\n"
    )
    assert offline.get_tags()["a"] == "b"


def test_tags_and_properties_are_kept_as_text(in_job: Run, entries: Entries) -> None:
    in_job.tag("best")
    in_job.tag("epoch", 3)  # type: ignore[arg-type]
    in_job.set_tags({"stage": "dev"})
    in_job.add_properties({"seed": "7"})

    kept = [(e["k"], e["n"], e["v"]) for e in entries("tags.jsonl")]
    assert kept == [
        ("tag", "best", ""),
        ("tag", "epoch", "3"),
        ("tag", "stage", "dev"),
        ("property", "seed", "7"),
    ]
    assert in_job.get_tags() == {"best": "", "epoch": "3", "stage": "dev"}


def test_bad_tags_are_left_out_and_named(
    in_job: Run, entries: Entries, capsys: pytest.CaptureFixture[str]
) -> None:
    in_job.tag("bad\nkey", "v")
    in_job.tag("too-long", "x" * 8193)
    in_job.set_tags(["not a dict"])  # type: ignore[arg-type]

    assert entries("tags.jsonl") == []
    assert in_job.get_tags() == {}
    said = capsys.readouterr().err.splitlines()
    assert "'bad\\nkey'" in said[0]
    assert "'too-long' left out: the text is longer than 8192 bytes" in said[1]
    assert len(said) == 3


def test_upload_file_keeps_files_and_streams(in_job: Run, job_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.pkl"
    source.write_bytes(b"model")

    in_job.upload_file("outputs/model.pkl", source)
    in_job.upload_file("notes.txt", io.StringIO("text \u00e9"))
    in_job.upload_file("data.bin", io.BytesIO(b"\x00" * (3 << 20)))
    in_job.upload_file("data.bin", io.BytesIO(b"second"))

    files = job_dir / "files"
    assert (files / "outputs/model.pkl").read_bytes() == b"model"
    assert (files / "notes.txt").read_text(encoding="utf-8") == "text \u00e9"
    assert (files / "data.bin").read_bytes() == b"second"
    assert sorted(os.listdir(job_dir)) == ["files"]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "a\nb", "a/", "x" * 256, "\ud800"]
)
def test_upload_file_refuses_names_that_leave_the_run(
    name: str, in_job: Run, job_dir: Path
) -> None:
    with pytest.raises(ValueError, match=r"name|encode"):
        in_job.upload_file(name, io.BytesIO(b"x"))

    assert os.listdir(job_dir) == []


def test_upload_file_raises_for_what_is_no_file(in_job: Run, job_dir: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(FileNotFoundError):
        in_job.upload_file("a", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="is not a file"):
        in_job.upload_file("a", tmp_path / "fifo")
    with pytest.raises(ValueError, match="a path or a stream is needed, not int"):
        in_job.upload_file("a", 5)  # type: ignore[arg-type]

    assert os.listdir(job_dir) == []


def test_upload_folder_keeps_every_file_under_the_name(
    in_job: Run, job_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "out/deep").mkdir(parents=True)
    (tmp_path / "out/a.txt").write_text("a")
    (tmp_path / "out/deep/b.txt").write_text("b")

    in_job.upload_folder("plots", str(tmp_path / "out"))

    assert (job_dir / "files/plots/a.txt").read_text() == "a"
    assert (job_dir / "files/plots/deep/b.txt").read_text() == "b"
    with pytest.raises(NotADirectoryError):
        in_job.upload_folder("plots", str(tmp_path / "missing"))
