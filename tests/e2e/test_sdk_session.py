"""The SDK as a program uses it, against the real daemon: a session from submit to files."""

from __future__ import annotations

import pytest

from support.house import House
from support.sdk_program import program, result_of

pytestmark = pytest.mark.slow

TRAIN = (
    "import argparse, sys\nfrom runyard import Run\n"
    "p = argparse.ArgumentParser(); p.add_argument('--alpha', type=float)\n"
    "alpha = p.parse_args().alpha\nrun = Run.get_context()\n"
    "for step in range(3):\n    run.log('loss', alpha / (step + 1))\n"
    "run.log('alpha', alpha)\n"
    "open('outputs/model.txt', 'w').write('model')\n"
    "print('trained with', alpha)\nprint('to stderr', file=sys.stderr)\n"
)


def test_session_of_the_documentation(shared_house: House) -> None:
    folder = shared_house.project(
        {
            "train.py": TRAIN,
            "env.yml": "name: iris-env\ndependencies:\n  - pip:\n      - six==1.16.0\n",
        },
        name="session",
    )

    done = program(
        shared_house,
        folder,
        "from runyard import Workspace, Experiment, ScriptRunConfig, Environment, Run\n"
        "from runyard.compute import ComputeTarget\n"
        "ws = Workspace()\n"
        "env = Environment.from_conda_specification('iris-env', 'env.yml')\n"
        "run = Experiment(ws, 'iris').submit(\n"
        "    ScriptRunConfig(source_directory='.', script='train.py', arguments=['--alpha', 0.1],\n"
        "                    compute_target='local', environment=env))\n"
        "run.wait_for_completion(show_output=True)\n"
        "print(run.get_metrics())\n"
        "print(ComputeTarget(ws, 'local').name)\n",
    )

    assert "trained with 0.1\n" in done.stdout
    assert "'alpha': 0.1" in done.stdout
    assert "'loss': [0.1, 0.05, 0.0333" in done.stdout
    assert done.stdout.endswith("local\n")


def test_every_method_of_a_run(shared_house: House) -> None:
    folder = shared_house.project({"train.py": TRAIN}, name="methods")

    result = result_of(
        shared_house,
        folder,
        "from runyard import *\nimport os\n"
        "experiment = Experiment(Workspace(), 'methods')\n"
        "run = experiment.submit(ScriptRunConfig(script='train.py', arguments=['--alpha', 0.5]),\n"
        "                        tags={'a': 'b'}, properties={'p': 'q'})\n"
        "details = run.wait_for_completion(raise_on_error=True)\n"
        "run.tag('later', 'yes')\nrun.add_properties({'later': 'too'})\n"
        "open('report.txt', 'w').write('report')\n"
        "run.upload_file('reports/report.txt', 'report.txt')\n"
        "run.download_file('outputs/model.txt', 'got.txt')\n"
        "run.download_files('reports/', 'all')\n"
        "result = dict(status=run.get_status(), logs=run.get_logs(), out=run.get_logs('stdout'),\n"
        "  metrics=run.get_metrics(), one=run.get_metrics('alpha'), details=run.get_details(),\n"
        "  files=sorted(run.get_file_names()), tags=run.get_tags(), got=open('got.txt').read(),\n"
        "  properties=run.get_properties(), report=open('all/reports/report.txt').read(),\n"
        "  same=Run.get(Workspace(), run.id).id == run.id,\n"
        "  newest=[r.id for r in experiment.get_runs()][0] == run.id,\n"
        "  tagged=[r.id for r in experiment.get_runs(tags={'later': 'yes'})] == [run.id])\n",
    )

    assert result["status"] == "Completed"
    assert sorted(str(result["logs"]).splitlines()) == ["to stderr", "trained with 0.5"]
    assert result["out"] == "trained with 0.5\n"
    assert result["metrics"] == {"loss": [0.5, 0.25, 0.5 / 3], "alpha": 0.5}
    assert result["files"] == [
        "logs/stderr.txt",
        "logs/stdout.txt",
        "outputs/model.txt",
        "reports/report.txt",
    ]
    assert result["tags"] == {"a": "b", "later": "yes"}
    assert result["properties"] == {"p": "q", "later": "too"}
    assert (result["got"], result["report"]) == ("model", "report")
    assert result["same"]
    assert result["newest"]
    assert result["tagged"]
    details = result["details"]
    assert isinstance(details, dict)
    assert {"runId", "target", "status", "startTimeUtc", "endTimeUtc", "properties"} <= set(details)
    assert details["runDefinition"]["script"] == "train.py"


def test_failed_run_raises_unless_told_otherwise_and_cancel_ends_one(shared_house: House) -> None:
    folder = shared_house.project(
        {"fail.py": "raise ValueError('bad rate')", "long.py": "import time; time.sleep(100)"},
        name="failing",
    )

    result = result_of(
        shared_house,
        folder,
        "from runyard import *\n"
        "experiment = Experiment(Workspace(), 'failing')\n"
        "run = experiment.submit(ScriptRunConfig(script='fail.py'))\n"
        "try:\n    run.wait_for_completion()\nexcept RunFailed as error:\n    said = str(error)\n"
        "quiet = run.wait_for_completion(raise_on_error=False)['status']\n"
        "long = experiment.submit(ScriptRunConfig(command=['sleep', '100']))\n"
        "long.cancel()\nlong.wait_for_completion(raise_on_error=False)\n"
        "result = dict(said=said, quiet=quiet, long=long.get_status())\n",
    )

    assert "bad rate" in str(result["said"])
    assert (result["quiet"], result["long"]) == ("Failed", "Canceled")


def test_run_configuration_with_packages(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import six, sys; print(six.__version__, sys.argv[1:])"}, name="rc"
    )

    result = result_of(
        shared_house,
        folder,
        "from runyard import *\n"
        "rc = RunConfiguration(script='train.py', arguments=['x'])\n"
        "rc.environment.python.conda_dependencies = "
        "CondaDependencies.create(pip_packages=['six==1.16.0'])\n"
        "run = Experiment(Workspace(), 'rc').submit(rc)\n"
        "run.wait_for_completion()\nresult = dict(logs=run.get_logs('stdout'))\n",
    )

    assert result["logs"] == "1.16.0 ['x']\n"


def test_one_request_id_makes_one_run(shared_house: House) -> None:
    folder = shared_house.project({"x": ""}, name="twice")
    shared_house.runyard("run", "--", "true", cwd=folder)

    result = result_of(
        shared_house,
        folder,
        "import uuid\nfrom runyard import Workspace\n"
        "from runyardpb.v1 import runs_pb2, runs_pb2_grpc\n"
        "request = runs_pb2.CreateRunRequest(\n"
        "    parent='workspaces/default/experiments/twice', request_id=str(uuid.uuid4()))\n"
        "request.spec.command.argv.append(b'true')\n"
        "call = Workspace().connection.unary\n"
        "names = [call(runs_pb2_grpc.RunServiceStub, lambda s: s.CreateRun, request).run.name\n"
        "         for _ in range(2)]\n"
        "result = dict(names=names)",
    )

    names = result["names"]
    assert isinstance(names, list)
    assert len(set(names)) == 1
    listed = shared_house.json("runs", "list", "-e", "twice")
    assert [run["run_id"] for run in listed].count(names[0].rpartition("/")[2]) == 1
    assert len(listed) == 2


def test_many_runs_are_submitted_at_once_and_waited_for_together(shared_house: House) -> None:
    folder = shared_house.project(
        {"echo.py": "import sys; sys.exit(int(sys.argv[1]))"}, name="many"
    )

    found = result_of(
        shared_house,
        folder,
        "from runyard import Experiment, ScriptRunConfig, Workspace, wait_all\n"
        "codes = [0, 3, 0, 1, 0, 0]\n"
        "configs = [ScriptRunConfig('.', 'echo.py', arguments=[code]) for code in codes]\n"
        "experiment = Experiment(Workspace(), 'many')\n"
        "runs = wait_all(experiment.submit_all(configs), raise_on_error=False)\n"
        "again = wait_all(runs, raise_on_error=False)\n"
        "result = {'numbers': [run.number for run in runs],\n"
        "          'codes': [run.record.end.exit_code for run in again],\n"
        "          'snapshots': len({run.record.snapshot for run in runs})}\n",
    )

    assert found == {"numbers": [1, 2, 3, 4, 5, 6], "codes": [0, 3, 0, 1, 0, 0], "snapshots": 1}
