"""Which folder is sent, which script runs with what, and how the experiment is called."""

from __future__ import annotations

import sys

import pytest

from support.house import House

pytestmark = pytest.mark.slow

# outputs/ and logs/ are always there.
SAYS_WHERE = "import os, sys\nprint(sorted(set(os.listdir()) - {'outputs', 'logs'}), sys.argv[1:])"


def newest(house: House) -> str:
    experiment: str = house.json("runs", "list")[0]["experiment"]
    return experiment


def test_source_names_the_folder_and_the_script_is_looked_up_in_both(shared_house: House) -> None:
    root = shared_house.project(
        {"src/train.py": SAYS_WHERE, "src/data.csv": "", "other/x.txt": ""}, name="source"
    )

    from_here = shared_house.runyard("run", "--source", "src", "src/train.py", cwd=root)
    from_source = shared_house.runyard("run", "--source", "src", "train.py", cwd=root)
    from_beside = shared_house.runyard("run", "--source", "../src", "train.py", cwd=root / "other")

    assert from_here.stdout == b"['data.csv', 'train.py'] []\n"
    assert from_source.stdout == from_here.stdout
    assert from_beside.stdout == from_here.stdout
    assert newest(shared_house) == "src"


def test_script_elsewhere_brings_its_own_folder(shared_house: House) -> None:
    here = shared_house.project({"unrelated.txt": ""}, name="elsewhere")
    there = shared_house.project({"train.py": SAYS_WHERE}, name="there")

    done = shared_house.runyard("run", str(there / "train.py"), cwd=here)

    assert done.stdout == b"['train.py'] []\n"
    assert newest(shared_house) == "there"


def test_script_may_be_left_out_when_the_configuration_names_one(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "train.py": SAYS_WHERE,
            "train.runconfig": "script: train.py\narguments: [--alpha, '0.1', two words]\n",
        },
        name="configured",
    )

    as_written = shared_house.runyard("run", "--config", "train.runconfig", cwd=folder)
    replaced = shared_house.runyard(
        "run", "--config", "train.runconfig", "train.py", "--beta", cwd=folder
    )
    kept = shared_house.runyard("run", "--config", "train.runconfig", "train.py", cwd=folder)

    assert as_written.stdout.endswith(b"['--alpha', '0.1', 'two words']\n"), as_written.stderr
    assert replaced.stdout.endswith(b"['--beta']\n")
    assert kept.stdout == as_written.stdout


def test_neither_script_nor_configuration_is_a_usage_error(shared_house: House) -> None:
    done = shared_house.runyard("run", cwd=shared_house.project({}, name="nothing"))

    assert done.returncode == 2
    assert b"no script was named" in done.stderr
    assert b"runyard run train.py" in done.stderr


def test_configuration_of_azure_ml_v1_runs(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "train.py": "import os, sys; print(sys.argv[1:], os.environ['MODE'])",
            ".azureml/iris.runconfig": (
                "script: train.py\n"
                "arguments: ['--alpha', '0.5']\n"
                "target: local\n"
                "framework: Python\n"
                "communicator: None\n"
                "autoPrepareEnvironment: true\n"
                "maxRunDurationSeconds: 60\n"
                "nodeCount: 1\n"
                "history:\n  outputCollection: true\n"
                "environment:\n"
                "  python:\n"
                "    userManagedDependencies: true\n"
                f"    interpreterPath: {sys.executable}\n"
                "  environmentVariables:\n"
                "    MODE: quick\n"
            ),
        },
        name="v1",
    )

    done = shared_house.runyard("run", "--config", "iris", cwd=folder)

    assert done.stdout == b"['--alpha', '0.5'] quick\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("folder", "experiment"),
    [
        ("iris", "iris"),
        ("my project (2)", "my-project-2-"),
        ("n" * 50, "n" * 36),
        ("模型", "default"),
    ],
)
def test_experiment_is_named_after_the_folder(
    shared_house: House, folder: str, experiment: str
) -> None:
    source = shared_house.project({"train.py": ""}, name=folder)

    shared_house.submit("train.py", cwd=source)

    found = newest(shared_house)
    assert found.rstrip("-") == experiment.rstrip("-")
    listed = shared_house.json("experiment", "list")
    assert found in {entry["name"] for entry in listed}


def test_experiment_can_be_chosen(shared_house: House) -> None:
    source = shared_house.project({"train.py": ""}, name="anywhere")

    shared_house.submit("-e", "chosen", "train.py", cwd=source)

    assert newest(shared_house) == "chosen"
    runs = shared_house.json("runs", "list", "-e", "CHOSEN")
    assert [run["experiment"] for run in runs] == ["chosen"]


def test_empty_folder_runs_a_command_and_says_of_a_script_that_it_is_missing(
    shared_house: House,
) -> None:
    empty = shared_house.project({}, name="void")

    command = shared_house.runyard("run", "--", "ls", cwd=empty)
    kept_out = shared_house.project({"train.py": "", ".gitignore": "*"}, name="all-out")
    script = shared_house.runyard("run", "train.py", cwd=kept_out)

    assert command.stdout.split() == [b"logs", b"outputs"]
    assert script.returncode == 2
    assert b"train.py" in script.stderr
    assert b".gitignore" in script.stderr


def test_definition_is_kept_as_it_was_given(shared_house: House) -> None:
    source = shared_house.project({"train.py": ""}, name="kept")

    run_id = shared_house.submit(
        "--priority", "7", "--max-duration", "90s", "train.py", "--alpha", "0.1", cwd=source
    )

    definition = shared_house.show(run_id)["definition"]
    assert definition["script"] == "train.py"
    assert definition["arguments"] == ["--alpha", "0.1"]
    assert definition["maxRunDurationSeconds"] == 90
