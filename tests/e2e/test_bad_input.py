"""What bad input gets: a message that names the thing and the next step, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.house import House
from support.unprivileged import without_overriding_modes

pytestmark = pytest.mark.slow


def refused(
    house: House, *args: str, cwd: Path, code: int, names: tuple[str, ...], **more: dict[str, str]
) -> str:
    """Runs a command that must fail, and returns what it said."""
    done = house.runyard(*args, cwd=cwd, **more)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == code, (done.returncode, said)
    assert "Traceback" not in said
    for name in names:
        assert name in said, said
    assert "fix:" in said, said
    return said


@pytest.fixture(scope="module")
def folder(shared_house: House) -> Path:
    return shared_house.project({"train.py": "print('ran')"}, name="bad")


def test_script_missing_names_the_nearest(shared_house: House, folder: Path) -> None:
    refused(shared_house, "run", "trian.py", cwd=folder, code=3, names=("trian.py", "train.py"))


def test_script_outside_the_source_directory(shared_house: House, folder: Path) -> None:
    other = shared_house.project({"x.py": ""}, name="other")
    refused(
        shared_house,
        "run",
        "--source",
        ".",
        str(other / "x.py"),
        cwd=folder,
        code=2,
        names=("x.py", "--source"),
    )


def test_empty_directory(shared_house: House) -> None:
    empty = shared_house.project({}, name="empty")
    refused(shared_house, "run", "train.py", cwd=empty, code=3, names=("train.py",))


def test_unreadable_file_is_named(shared_house: House) -> None:
    source = shared_house.project({"train.py": "", "notes/private.txt": "x"}, name="unreadable")
    (source / "notes/private.txt").chmod(0)

    done = subprocess.run(
        without_overriding_modes(shared_house.command("run", "train.py")),
        cwd=source,
        env=shared_house.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert "notes/private.txt" in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_loop_of_links_and_device_behind_a_link_are_named(shared_house: House) -> None:
    source = shared_house.project({"train.py": ""}, name="loops")
    (source / "memory").symlink_to("/proc/self/mem")
    refused(shared_house, "run", "train.py", cwd=source, code=2, names=("memory",))
    (source / "memory").unlink()
    (source / "loop").symlink_to("loop")
    assert shared_house.runyard("run", "train.py", cwd=source).returncode in {0, 2}


def test_link_that_leads_out_is_named(shared_house: House) -> None:
    source = shared_house.project({"train.py": ""}, name="linkout")
    (source / "data").symlink_to("/etc")
    refused(shared_house, "run", "train.py", cwd=source, code=2, names=("data", "/etc"))


def test_name_that_is_not_utf8_is_named(shared_house: House) -> None:
    source = shared_house.project({"train.py": ""}, name="latin")
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.txt")).touch()
    refused(shared_house, "run", "train.py", cwd=source, code=2, names=("UTF-8",))


def test_tree_over_the_limits_names_its_largest_parts(shared_house: House) -> None:
    source = shared_house.project({"train.py": "", "data/big.bin": b""}, name="large")
    with open(source / "data/big.bin", "wb") as file:
        file.truncate(2 << 30)
    refused(shared_house, "run", "train.py", cwd=source, code=2, names=("1.0 GiB", "data"))


def test_home_directory_is_refused_without_source(shared_house: House) -> None:
    script = shared_house.user_home / "x.py"
    script.touch()
    refused(
        shared_house, "run", "x.py", cwd=shared_house.user_home, code=2, names=("--source", "home")
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("script: [train.py\n", ("line",)),
        ("script: train.py\nframwork: Python\n", ("framwork", "framework")),
        ("script: train.py\nnodeCount: 3\n", ("nodeCount",)),
        ("!!python/object/apply:os.system ['true']\n", ()),
    ],
    ids=["broken", "unknown-key", "not-served", "python-object"],
)
def test_run_configuration_errors(
    shared_house: House, folder: Path, text: str, names: tuple[str, ...]
) -> None:
    (folder / "bad.runconfig").write_text(text)
    refused(
        shared_house,
        "run",
        "--config",
        "bad.runconfig",
        "train.py",
        cwd=folder,
        code=2,
        names=("bad.runconfig", *names),
    )


def test_unknown_target_names_the_nearest(shared_house: House, folder: Path) -> None:
    refused(
        shared_house, "run", "-t", "locla", "train.py", cwd=folder, code=3, names=("locla", "local")
    )


def test_unknown_experiment_and_run_name_the_nearest(shared_house: House, folder: Path) -> None:
    run_id = shared_house.submit("-e", "iris", "train.py", cwd=folder)
    refused(shared_house, "runs", "list", "-e", "irsi", cwd=folder, code=3, names=("irsi", "iris"))
    wrong = run_id[:-1] + ("0" if run_id[-1] != "0" else "1")
    refused(shared_house, "runs", "show", wrong, cwd=folder, code=3, names=(wrong, run_id))


def test_interpreter_that_does_not_exist(shared_house: House, folder: Path) -> None:
    (folder / "interp.runconfig").write_text(
        "script: train.py\nenvironment:\n  python:\n    userManagedDependencies: true\n"
        "    interpreterPath: /opt/no/python9\n"
    )
    done = shared_house.runyard("run", "--config", "interp.runconfig", "train.py", cwd=folder)
    assert done.returncode == 125
    assert b"/opt/no/python9" in done.stderr
    run = shared_house.json("runs", "list")[0]
    assert run["cause"]["class"] == "ENVIRONMENT"


def test_package_that_does_not_exist_shows_the_build_log(shared_house: House, folder: Path) -> None:
    (folder / "requirements.txt").write_text("runyard-no-such-package-here==9.9.9\n")
    done = shared_house.runyard("run", "--env", "requirements.txt", "train.py", cwd=folder)
    said = done.stderr.decode()
    assert done.returncode == 125
    assert "runyard-no-such-package-here" in said
    run = shared_house.json("runs", "list")[0]
    assert run["cause"]["class"] == "ENVIRONMENT"
    log = shared_house.runyard("runs", "logs", "--environment", run["run_id"])
    assert b"runyard-no-such-package-here" in log.stdout


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-duration", "-5s"),
        ("--max-duration", "0"),
        ("--max-duration", "99999999999h"),
        ("--priority", "100000"),
        ("--priority", "high"),
        ("--tag", "=x"),
        ("--tag", "a" * 300 + "=x"),
        ("--cpus", "-1"),
        ("--memory", "12 parsecs"),
        ("--gpus", "-2"),
        ("-e", "no spaces allowed"),
        ("--env-var", "=x"),
    ],
)
def test_absurd_values_are_usage_errors(
    shared_house: House, folder: Path, option: str, value: str
) -> None:
    refused(shared_house, "run", option, value, "train.py", cwd=folder, code=2, names=(option,))


def test_demand_that_no_target_can_meet_is_explained(shared_house: House, folder: Path) -> None:
    assert shared_house.runyard("run", "train.py", cwd=folder).returncode == 0  # its node is there
    run_id = shared_house.submit("--gpus", "64", "train.py", cwd=folder)
    explained = shared_house.runyard("runs", "explain", run_id)
    shared_house.runyard("runs", "cancel", run_id)
    assert b"64" in explained.stdout
    assert shared_house.show(run_id)["status"] == "Canceled"


def test_missing_import_is_named_with_advice(shared_house: House) -> None:
    source = shared_house.project({"train.py": "import runyard_no_such_module"}, name="import")
    done = shared_house.runyard("run", "train.py", cwd=source)
    assert done.returncode == 1
    run = shared_house.json("runs", "list")[0]
    assert run["cause"]["class"] == "MISSING_IMPORT"
    assert "runyard_no_such_module" in run["cause"]["message"]
    assert run["cause"]["advice"]


@pytest.mark.parametrize("opened", ["'data/x.csv'", "__import__('os').path.abspath('data/x.csv')"])
def test_file_that_an_ignore_rule_kept_out_is_named_with_the_rule(
    shared_house: House, opened: str
) -> None:
    source = shared_house.project(
        {"train.py": f"open({opened})", ".gitignore": "*.pyc\ndata/\n", "data/x.csv": "1"},
        name="ignored",
    )
    done = shared_house.runyard("run", "train.py", cwd=source)
    run = shared_house.json("runs", "list")[0]
    assert done.returncode == 1
    assert run["cause"]["class"] == "IGNORED_FILE"
    assert ".gitignore" in done.stderr.decode()
    assert "2" in run["cause"]["message"]
    assert "data/x.csv" in run["cause"]["message"]


def test_ten_megabytes_without_newline_and_binary_output(shared_house: House) -> None:
    source = shared_house.project(
        {"train.py": "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40960)"},
        name="binary",
    )
    done = shared_house.runyard("run", "train.py", cwd=source)
    assert done.stdout == bytes(range(256)) * 40960


def test_endless_output_can_be_stopped_and_harms_no_other_run(shared_house: House) -> None:
    source = shared_house.project({"train.py": "while True: print('y' * 200)"}, name="endless")
    with shared_house.background("run", "--max-duration", "3s", "train.py", cwd=source) as process:
        assert process.stdout is not None
        assert process.stdout.read(1 << 20)
        other = shared_house.runyard("run", "--", "echo", "fine", cwd=source)
        while process.stdout.read(1 << 20):
            pass
        assert process.wait(60) == 125
    assert other.stdout == b"fine\n"


def test_metrics_that_cannot_be_kept_are_named_and_do_not_break_training(
    shared_house: House,
) -> None:
    script = (
        "from runyard import Run\nrun = Run.get_context()\n"
        "run.log('ok', 1)\nrun.log('bad', object())\nrun.log('', 1)\nrun.log('nan', float('nan'))\n"
        "print('trained')"
    )
    source = shared_house.project({"train.py": script}, name="metrics")
    done = shared_house.runyard("run", "--", sys.executable, "train.py", cwd=source)
    assert done.returncode == 0
    assert b"bad" in done.stderr
    run_id = shared_house.json("runs", "list")[0]["run_id"]
    metrics = shared_house.json("runs", "metrics", run_id)
    assert metrics["ok"] == 1
    assert "bad" not in metrics


def test_errors_as_json_carry_reason_and_hint(shared_house: House, folder: Path) -> None:
    done = shared_house.runyard("runs", "show", "--json", "nothing_1_00000000", cwd=folder)
    assert done.returncode == 3
    assert b"RUN_NOT_FOUND" in done.stdout + done.stderr
