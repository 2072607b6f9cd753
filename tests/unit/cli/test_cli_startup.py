"""What a command imports: start-up time is imports, and they creep in unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.command_line import CommandLine
from support.fake_control import FakeControl

RUNYARD = Path(sys.executable).with_name("runyard")
# Runs a command line as `entry` does, then says which modules were loaded: not those by name only.
LOADED = """
import json, os, sys
from runyard.cli.deferred_imports import defer_imports
defer_imports()
from runyard.cli import main
from runyard.cli.output import Output
code = main.run_command_line(sys.argv[2:], Output(os.environ))
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "modules": [
        name for name, module in sys.modules.items() if type(module).__name__ != "DeferredModule"
    ]}, file)
os._exit(0)
"""
HEAVY = (
    "concurrent.futures.thread",
    "google.protobuf.json_format",
    "importlib.metadata",
    "multiprocessing",
    "pathspec",
    "rich",
    "ruamel",
    "sqlite3",
    "ssl",
    "unittest",
)


def loaded_by(tmp_path: Path, *arguments: str) -> set[str]:
    report = tmp_path / "report.json"
    subprocess.run(
        [sys.executable, "-P", "-c", LOADED, str(report), *arguments],
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found = json.loads(report.read_text())
    assert found["code"] == 0
    return set(found["modules"])


def test_help_imports_the_parser_and_little_else(tmp_path: Path) -> None:
    modules = loaded_by(tmp_path, "--help")

    ours = {name for name in modules if name.startswith(("runyard.", "runyard_contract."))}
    assert not modules.intersection([*HEAVY, "grpc", "google.protobuf", "hashlib", "subprocess"])
    assert ours <= {
        "runyard.cli",
        "runyard.cli.command_line",
        "runyard.cli.deferred_imports",
        "runyard.cli.failure",
        "runyard.cli.main",
        "runyard.cli.options",
        "runyard.cli.output",
        "runyard.cli.render",
        "runyard.cli.render.text",
        "runyard.cli.root",
        "runyard_contract.errors",
        "runyard_contract.errors.access",
        "runyard_contract.errors.base",
        "runyard_contract.errors.disk",
        "runyard_contract.errors.request",
        "runyard_contract.errors.system",
        "runyard_contract.nearest",
        "runyard_contract.value",
    }


def test_plain_run_in_a_pipe_imports_nothing_heavy(
    tmp_path: Path, control: FakeControl, project: Path
) -> None:
    loaded_by(tmp_path, "run", "train.py")  # reads the source directory

    modules = loaded_by(tmp_path, "run", "train.py")

    assert "grpc" in modules
    assert not modules.intersection(HEAVY)
    # What is put off may be there by name, but its code did not run, nor what it would bring.
    assert not {name for name in modules if name.split(".")[0] == "asyncio"}
    assert not {name for name in modules if name.startswith("grpc.aio")}
    assert not modules.intersection(["linecache", "dis", "bz2", "_hashlib"])
    # There is nothing to parse, nor are there files to read, or many to look at.
    assert not modules.intersection(["click", "ctypes", "dataclasses", "platform", "uuid"])
    assert not modules.intersection(["runyard.cli.run", "runyard.snapshot.rescan"])


def test_run_with_options_imports_nothing_heavy(
    tmp_path: Path, control: FakeControl, project: Path
) -> None:
    modules = loaded_by(tmp_path, "run", "--priority", "3", "train.py")

    assert not modules.intersection(HEAVY)
    assert not {name for name in modules if name.split(".")[0] == "asyncio"}


def test_run_without_options_is_what_the_parser_makes_of_it(
    command: CommandLine, control: FakeControl, project: Path
) -> None:
    words = ("train.py", "--alpha", "0.1", "--", "-x", "", "--json")
    assert command("run", *words).code == 0  # which nothing is parsed of
    assert command("run", "--priority", "0", *words).code == 0  # which says the default

    plain, parsed = control.state.created
    assert plain.request_id != parsed.request_id
    for request in (plain, parsed):
        request.ClearField("request_id")
        request.ClearField("snapshot_duration")
    assert plain == parsed


def test_shell_that_asks_for_completions_runs_nothing(control: FakeControl, project: Path) -> None:
    asked = {
        "_RUNYARD_COMPLETE": "bash_complete",
        "COMP_WORDS": "runyard run tr",
        "COMP_CWORD": "2",
    }
    subprocess.run(
        [RUNYARD, "run", "train.py"],
        env={**os.environ, **asked},
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )

    assert not control.state.created


def test_modules_of_the_users_folder_do_not_shadow_ours(
    control: FakeControl, project: Path
) -> None:
    for name in ("click", "grpc", "json", "runyard", "blake3", "google"):
        (project / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")

    done = subprocess.run(
        [RUNYARD, "run", "train.py"], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )

    assert done.returncode == 0, done.stderr
    assert b"wrong module" not in done.stderr
