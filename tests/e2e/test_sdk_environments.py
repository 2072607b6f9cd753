"""Environments in the workspace: stored, read back, edited and built, from the SDK and the CLI."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from support.conda_channel import PYTHON_VERSION, CondaChannel
from support.house import House
from support.sdk_program import program, result_of

pytestmark = pytest.mark.slow

# Answers `conda env export -p PREFIX` with what is really installed there.
CONDA = """#!{python}
import glob, json, sys
words = sys.argv[1:]
assert words[:3] == ["env", "export", "-p"] and words[4:] == ["--no-builds"], words
records = [json.load(open(path)) for path in sorted(glob.glob(words[3] + "/conda-meta/*.json"))]
print("name: null\\nchannels:")
for channel in sorted({{record["channel"] for record in records}}):
    print("  - " + channel)
print("dependencies:")
for record in records:
    print("  - " + record["name"] + "=" + record["version"])
print("prefix: " + words[3])
"""
IMPORTS = "from runyard import *\nws = Workspace()\n"


def test_examples_of_the_documentation_do_what_they_say(house: House) -> None:
    text = Path(__file__).parents[2].joinpath("docs/environments.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    conda = "#!/bin/sh\nprintf 'dependencies:\\n- numpy=1.26.4\\n'\n"
    folder = house.project(
        {
            "requirements.txt": "six==1.16.0\n",
            "environment.yml": "dependencies:\n- numpy\n",
            "Dockerfile": "FROM python:3.12-slim\n",
            "conda": conda,
        },
        name="documented",
    )
    (folder / "conda").chmod(0o755)
    house.environment["CONDA_EXE"] = str(folder / "conda")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    code = code.replace('python_version="3.11"', f"python_version={version!r}")

    done = program(house, folder, code)

    assert done.stdout.startswith("iris 1\n")
    assert done.stdout.endswith("['iris'] 1\n")
    stored = {one["name"]: one for one in house.json("environment", "list")}
    assert sorted(stored) == ["iris", "iris-next"]
    assert stored["iris"]["requirements"] == ["six==1.16.0"]
    assert stored["iris"]["spec_hash"] == stored["iris-next"]["spec_hash"]
    assert len(stored["iris"]["builds"]) == 1


def test_registered_environment_has_a_version_for_each_content(shared_house: House) -> None:
    folder = shared_house.project({"x": ""}, name="registered")

    result = result_of(
        shared_house,
        folder,
        IMPORTS + "env = Environment('sdk-reg')\n"
        "env.python.conda_dependencies.add_pip_package('six==1.16.0')\n"
        "env.environment_variables['A'] = '1'\n"
        "first, same = env.register(ws), env.register(ws)\n"
        "env.python.conda_dependencies.add_pip_package('idna')\n"
        "second, copy = env.register(ws), env.clone('sdk-copy').register(ws)\n"
        "old = Environment.get(ws, 'sdk-reg', version=1)\n"
        "new = Environment.get(ws, 'sdk-reg', label='latest')\n"
        "packages = lambda e: e.python.conda_dependencies.pip_packages\n"
        "mine = {n: e.version for n, e in Environment.list(ws).items() if n.startswith('sdk-')}\n"
        "python = Environment('sdk-own')\n"
        "python.python.user_managed_dependencies = True\n"
        "own = python.register(ws)\n"
        "said = []\n"
        "def ask(*a, **k):\n"
        "    try: Environment.get(ws, *a, **k)\n"
        "    except RunyardError as e: said.append([type(e).__name__, e.message])\n"
        "ask('sdk-rge'); ask('sdk-reg', version=9); ask('sdk-reg', label='stable')\n"
        "try: Environment('sdk-none').register(ws)\n"
        "except RunyardError as e: said.append([type(e).__name__, e.message])\n"
        "result = dict(versions=[e.version for e in (first, same, second, copy)], mine=mine,\n"
        "    old=packages(old), new=packages(new), variables=old.environment_variables,\n"
        "    by_name=ws.environments['sdk-reg'].version, said=said,\n"
        "    own=own.python.user_managed_dependencies)\n",
    )

    assert result["versions"] == ["1", "1", "2", "1"]
    assert result["mine"] == {"sdk-copy": "1", "sdk-reg": "2"}
    assert result["old"] == ["six==1.16.0"]
    assert result["new"] == ["six==1.16.0", "idna"]
    assert result["variables"] == {"A": "1"}
    assert result["by_name"] == "2"
    assert result["own"] is True
    assert result["said"] == [
        ["EnvironmentNotFound", 'no environment named "sdk-rge"; did you mean "sdk-reg"?'],
        ["EnvironmentNotFound", 'no environment named "sdk-reg, version 9"'],
        [
            "Unsupported",
            "label 'stable' is not served: stored environments have versions, and the newest is"
            ' "latest"',
        ],
        ["SpecInvalid", "environment sdk-none asks for nothing, so there is nothing to store"],
    ]


def test_environment_is_built_ahead_and_a_run_in_it_builds_nothing(house: House) -> None:
    folder = house.project({"train.py": "import six; print(six.__version__)"}, name="sdk-built")

    result = result_of(
        house,
        folder,
        IMPORTS + "env = Environment('ahead')\n"
        "env.python.conda_dependencies = CondaDependencies.create(pip_packages=['six==1.16.0'])\n"
        "build = env.build(ws)\n"
        "details = build.wait_for_completion()\n"
        "again = env.build_local(ws)\n"
        "stored = env.register(ws)\n"
        "run = Experiment(ws, 'sdk-built').submit(\n"
        "    ScriptRunConfig(script='train.py', environment=Environment.get(ws, 'ahead')))\n"
        "run.wait_for_completion()\n"
        "bad = Environment('bad')\n"
        "bad.python.conda_dependencies.add_pip_package('six==0.0.0.1')\n"
        "try: bad.build_local(ws)\n"
        "except RunFailed as e: said = e.message\n"
        "result = dict(status=details['status'], again=again.get_status(), said=said,\n"
        "    experiment=build.experiment.name, stdout=run.get_logs('stdout'))\n",
    )

    assert (result["status"], result["again"]) == ("Completed", "Completed")
    assert result["experiment"] == "environments"
    assert result["stdout"] == "1.16.0\n"
    assert "six==0.0.0.1" in str(result["said"])
    assert len(list((house.home / "agent" / "environments").glob("*/ready.json"))) == 1


def test_download_edit_create_makes_a_new_version(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "env.yml": "dependencies:\n- pip:\n  - six==1.15.0\nvariables: {A: b}\n",
            "train.py": "import six; print(six.__version__)",
        },
        name="edited",
    )
    house = shared_house

    created = house.json(
        "environment", "create", "--file", "env.yml", "--name", "cli-e", cwd=folder
    )
    fetched = house.json("environment", "download", "cli-e", cwd=folder)
    same = house.runyard("environment", "create", "--file", "cli-e", cwd=folder)
    packages = folder / "cli-e" / "conda_dependencies.yml"
    packages.write_text(packages.read_text().replace("1.15.0", "1.16.0"))
    changed = house.runyard("environment", "create", "--file", "cli-e", cwd=folder)
    refused = house.runyard("environment", "download", "cli-e:1", "-o", "cli-e", cwd=folder)
    old = house.runyard(
        "environment", "download", "cli-e:1", "-o", "cli-e", "--overwrite", cwd=folder
    )
    used = house.runyard("run", "--env", "cli-e:1", "train.py", cwd=folder)
    built = house.runyard("environment", "build", "cli-e:2", cwd=folder)
    shown = house.json("environment", "show", "cli-e:1")
    newest = house.json("environment", "show", "cli-e")

    assert (created["name"], created["version"]) == ("cli-e", 1)
    assert (fetched["name"], fetched["version"]) == ("cli-e", 1)
    assert [Path(one).name for one in fetched["files"]] == [
        "azureml_environment.json",
        "conda_dependencies.yml",
    ]
    assert same.stdout == b"cli-e:1\n"
    assert changed.stdout == b"cli-e:2\n"
    assert b"cli-e is not empty" in refused.stderr
    assert refused.returncode == 2
    assert old.returncode == 0, old.stderr.decode()
    assert b"cli-e version 1" in old.stderr
    assert "1.15.0" in packages.read_text()
    assert (shown["requirements"], shown["variables"]) == (["six==1.15.0"], {"A": "b"})
    assert newest["requirements"] == ["six==1.16.0"]
    assert used.stdout == b"1.15.0\n", used.stderr.decode()
    assert built.returncode == 0, built.stderr.decode()


def test_environment_is_created_of_each_kind_of_file_and_of_a_folder(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "requirements.txt": "six\n",
            "env.yml": "dependencies: [numpy]\n",
            "Dockerfile": "FROM debian:12\n",
            "own/azureml_environment.json": '{"python": {"userManagedDependencies": true}}',
        },
        name="kinds",
    )

    for number, source in enumerate(("requirements.txt", "env.yml", "Dockerfile", "own")):
        name = f"kind-{number}"
        done = shared_house.runyard(
            "environment", "create", "--file", source, "--name", name, cwd=folder
        )
        assert done.stdout == f"{name}:1\n".encode(), done.stderr.decode()
    kinds = {one["name"]: one["kind"] for one in shared_house.json("environment", "list")}

    wanted = ("pip", "conda", "docker", "user-managed")
    assert [kinds[f"kind-{number}"] for number in range(4)] == list(wanted)


def test_packages_of_a_run_configuration_are_installed_without_being_asked_to(
    shared_house: House,
) -> None:
    folder = shared_house.project(
        {"train.py": "import six, sys; print(six.__version__, sys.prefix)"}, name="managed"
    )

    result = result_of(
        shared_house,
        folder,
        IMPORTS + "rc = RunConfiguration(\n"
        "    conda_dependencies=CondaDependencies.create(pip_packages=['six==1.16.0']))\n"
        "config = ScriptRunConfig(source_directory='.', script='train.py', run_config=rc)\n"
        "run = Experiment(ws, 'managed').submit(config)\n"
        "run.wait_for_completion()\n"
        "result = dict(stdout=run.get_logs('stdout'),\n"
        "    mine=rc.environment.python.user_managed_dependencies)\n",
    )

    version, prefix = str(result["stdout"]).split()
    assert (version, result["mine"]) == ("1.16.0", False)
    assert Path(prefix).is_relative_to(shared_house.home / "agent" / "environments")


def test_what_environments_are_not_made_of_is_refused(shared_house: House) -> None:
    folder = shared_house.project(
        {"env.yml": "dependencies: [numpy]\n", "x.cfg": ""}, name="refused"
    )
    create = ("environment", "create", "--file")
    (folder / "empty").mkdir()

    nameless = shared_house.runyard(*create, "env.yml", cwd=folder)
    missing = shared_house.runyard(*create, "evn.yml", "--name", "e", cwd=folder)
    empty = shared_house.runyard(*create, "empty", "--name", "e", cwd=folder)
    other = shared_house.runyard(*create, "x.cfg", "--name", "e", cwd=folder)
    unknown = shared_house.runyard("environment", "download", "nothing-here", cwd=folder)
    version = shared_house.runyard("environment", "download", "e:new", cwd=folder)

    assert b"add --name NAME" in nameless.stderr
    assert b"env.yml" in missing.stderr
    assert b"azureml_environment.json is not there" in empty.stderr
    assert b"no kind that an environment is read from" in other.stderr
    assert b'no environment named "nothing-here"' in unknown.stderr
    assert b"has no number of a version behind the colon" in version.stderr
    assert b"Traceback" not in b"".join(one.stderr for one in (nameless, missing, empty, other))
    codes = [one.returncode for one in (nameless, missing, empty, other, unknown, version)]
    assert codes == [2, 3, 2, 2, 3, 2]
    assert not (folder / "nothing-here").exists()


def test_installed_conda_environment_is_had_elsewhere_with_the_same_versions(
    house: House, conda_channel: CondaChannel
) -> None:
    env = f"channels: [{conda_channel.url}]\ndependencies: ['python={PYTHON_VERSION}', ryleaf=1]\n"
    folder = house.project(
        {"train.py": "import ryleaf, sys; print(ryleaf.VERSION, sys.prefix)", "env.yml": env},
        name="existing",
    )
    (folder / "conda").write_text(CONDA.format(python=sys.executable))
    (folder / "conda").chmod(0o755)
    first = house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)
    assert first.returncode == 0, first.stderr.decode()
    version, prefix = first.stdout.decode().split()

    result = result_of(
        house,
        folder,
        IMPORTS + "import os\n"
        "os.environ['CONDA_EXE'] = os.path.abspath('conda')\n"
        f"env = Environment.from_existing_conda_environment('again', {prefix!r})\n"
        "run = Experiment(ws, 'again').submit(\n"
        "    ScriptRunConfig(script='train.py', environment=env.register(ws)))\n"
        "run.wait_for_completion()\n"
        "result = dict(stdout=run.get_logs('stdout'),\n"
        "    packages=env.python.conda_dependencies.conda_packages)\n",
    )

    assert "ryleaf=1.0" in result["packages"]  # type: ignore[operator]
    assert f"python={PYTHON_VERSION}" in result["packages"]  # type: ignore[operator]
    assert str(result["stdout"]).startswith(f"{version} ")
