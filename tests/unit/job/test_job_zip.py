"""The zip under every Python that jobs may have, with and without the SDK in their environment."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

import runyard_job
from runyard_job.bundle import write_zip
from support.pythons import find_pythons

SCRIPT = """
from runyard import Run
run = Run.get_context()
run.log("loss", 0.5)
run.log_list("list", [1, float("nan")])
run.log_row("row", a=1, b="x")
run.tag("k", "v")
run.upload_file("outputs/m", __file__)
print(run.id)
"""


PYTHONS = find_pythons()


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    return PYTHONS[request.param]


def _run(python: str, code: str, path: list[Path], **env: str) -> subprocess.CompletedProcess[str]:
    # -S: whatever else is installed there stays out of the search path.
    return subprocess.run(
        [python, "-S", "-W", "error", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _make_sdk(folder: Path) -> Path:
    package = folder / "site" / "runyard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from runyard import compute\nfrom runyard_job import Run\nclass Workspace: pass\n"
    )
    (package / "compute.py").write_text("class ComputeTarget: pass\n")
    return package.parent


def test_job_without_the_sdk_logs_through_runyard(
    python: str, job_zip: Path, job_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    ended = _run(
        python,
        f"import runpy; runpy.run_path({str(script)!r})",
        [job_zip],
        RUNYARD_RUN_ID="iris_1_00000000",
        RUNYARD_JOB_DIR=str(job_dir),
    )

    assert (ended.stderr, ended.stdout) == ("", "iris_1_00000000\n")
    lines = (job_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["v"] for line in lines] == [0.5, [1, "NaN"], {"a": 1, "b": "x"}]
    assert json.loads((job_dir / "tags.jsonl").read_text())["n"] == "k"
    assert (job_dir / "files/outputs/m").read_text() == SCRIPT


def test_offline_run_prints(python: str, job_zip: Path) -> None:
    ended = _run(python, "from runyard import Run; Run.get_context().log('a', 1)", [job_zip])

    assert (ended.stderr, ended.stdout) == ("", "Attempted to log scalar metric a:\n1\n")


@pytest.mark.parametrize(
    "statement",
    [
        "from runyard import Workspace",
        "import runyard; runyard.Workspace",
        "import runyard.compute",
        "from runyard.compute import ComputeTarget",
    ],
)
def test_other_names_without_the_sdk_say_what_to_install(
    python: str, statement: str, job_zip: Path
) -> None:
    code = f"""
try:
    {statement}
except ImportError as error:
    print(error)
import runyard
print(hasattr(runyard, "__wrapped__"))
"""

    ended = _run(python, code, [job_zip])

    assert ended.stderr == ""
    assert re.search(r"pip install runyard.*\nFalse\n", ended.stdout)


def test_installed_sdk_is_loaded_instead_with_its_submodules(
    python: str, job_zip: Path, tmp_path: Path
) -> None:
    site = _make_sdk(tmp_path)
    code = """
from runyard import Workspace, Run
import runyard, runyard.compute, sys
assert sys.modules["runyard"] is runyard
print(runyard.__file__, runyard.compute.ComputeTarget.__module__, Run.__module__)
"""

    ended = _run(python, code, [job_zip, site])

    assert (ended.stderr, ended.stdout) == (
        "",
        f"{site}/runyard/__init__.py runyard.compute runyard_job.run\n",
    )


def test_sdk_found_by_an_editable_install_is_loaded(
    python: str, job_zip: Path, tmp_path: Path
) -> None:
    site = _make_sdk(tmp_path)
    code = f"""
import sys, importlib.util
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "runyard":
            where = {str(site)!r} + "/runyard"
            return importlib.util.spec_from_file_location(
                name, where + "/__init__.py", submodule_search_locations=[where])
sys.meta_path.append(Editable)
from runyard import Workspace
print(Workspace.__module__)
"""

    ended = _run(python, code, [job_zip])

    assert (ended.stderr, ended.stdout) == ("", "runyard\n")


def test_two_zips_and_a_folder_of_that_name_are_not_taken_for_the_sdk(
    python: str, job_zip: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.zip"
    write_zip(second)
    (tmp_path / "data/runyard").mkdir(parents=True)

    ended = _run(
        python,
        "from runyard import Run; print(Run.get_context().id[:10])",
        [job_zip, second, tmp_path / "data"],
    )

    assert (ended.stderr, ended.stdout) == ("", "OfflineRun\n")


def test_an_sdk_that_fails_to_load_says_so_itself(
    python: str, job_zip: Path, tmp_path: Path
) -> None:
    package = tmp_path / "site/runyard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('grpc is broken')\n")

    ended = _run(python, "import runyard", [job_zip, package.parent])

    assert ended.returncode == 1
    assert ended.stderr.endswith("ImportError: grpc is broken\n")


def test_every_source_is_python_3_8() -> None:
    sources = sorted(Path(runyard_job.__file__).parent.rglob("*.py"))

    assert len(sources) > 1
    for path in sources:
        ast.parse(path.read_bytes(), str(path), feature_version=(3, 8))


def test_same_sources_give_the_same_bytes(job_zip: Path, tmp_path: Path) -> None:
    write_zip(tmp_path / "again.zip")

    assert (tmp_path / "again.zip").read_bytes() == job_zip.read_bytes()


def test_zip_holds_sources_of_both_packages_and_no_build_code(job_zip: Path) -> None:
    with zipfile.ZipFile(job_zip) as archive:
        names = set(archive.namelist())

    assert {"runyard/__init__.py", "runyard_job/__init__.py", "runyard_job/run.py"} <= names
    assert not [name for name in names if "bundle" in name or "_facade" in name]


def test_write_zip_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "lib.zip").mkdir()

    with pytest.raises(OSError, match="directory"):
        write_zip(tmp_path / "lib.zip")

    assert [p.name for p in tmp_path.iterdir()] == ["lib.zip"]
