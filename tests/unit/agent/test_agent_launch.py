import json
import os
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.bundles import Bundle, Key
from runyard_agent.environments.protocol import ProvidedEnvironment
from runyard_agent.launch import Specs, arguments
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.common_pb2 import EnvironmentVariable

BUNDLE = Bundle("/node/runs/iris_1764000000_0a1b2c3d.2", Key("iris_1764000000_0a1b2c3d", 2))


def lease(**fields: object) -> pb.Lease:
    return pb.Lease(
        ref=pb.AttemptRef(
            run="workspaces/default/experiments/iris/runs/iris_1764000000_0a1b2c3d",
            attempt=2,
            epoch=7,
        ),
        spec=runs_pb2.RunSpec(**fields),  # type: ignore[arg-type]
    )


def pairs(**values: bytes) -> list[EnvironmentVariable]:
    return [EnvironmentVariable(name=k.encode(), value=v) for k, v in values.items()]


def composed(
    run: pb.Lease,
    python: bytes = b"/usr/bin/python3",
    *,
    is_local: bool = True,
    env: dict[bytes, bytes] | None = None,
    gpus: tuple[int, ...] = (),
) -> dict[bytes, bytes]:
    environment = ProvidedEnvironment(python=python, env=env or {})
    specs = Specs(is_local=is_local, library="/node/lib.zip", spool_bound_bytes=9)
    content = json.loads(specs.content(run, BUNDLE, environment, gpus, {}))
    return {os.fsencode(name): os.fsencode(value) for name, value in content["env"].items()}


def spec_of(run: pb.Lease, specs: Specs | None = None, bundle: Bundle = BUNDLE) -> dict[str, Any]:
    specs = specs or Specs(is_local=True, library="/node/lib.zip", spool_bound_bytes=9)
    environment = ProvidedEnvironment(python=b"/usr/bin/python3")
    content: dict[str, Any] = json.loads(specs.content(run, bundle, environment, (), {"gpus": [1]}))
    return content


def test_variables_of_a_job_name_its_run() -> None:
    env = composed(lease())

    assert env[b"RUNYARD_RUN_ID"] == b"iris_1764000000_0a1b2c3d"
    assert env[b"RUNYARD_EXPERIMENT"] == b"iris"
    assert env[b"RUNYARD_WORKSPACE"] == b"default"
    assert env[b"RUNYARD_ATTEMPT"] == b"2"
    assert env[b"RUNYARD_NODE_RANK"] == b"0"
    assert env[b"RUNYARD_WORLD_SIZE"] == b"1"
    assert env[b"RUNYARD_JOB_DIR"] == BUNDLE.job.encode()
    assert env[b"RUNYARD_OUTPUT_DIR"] == b"outputs"
    assert env[b"PYTHONUNBUFFERED"] == b"1"
    assert env[b"PYTHONPATH"] == b"/node/lib.zip"


def test_variables_of_the_run_go_over_the_environments_and_those_over_the_callers() -> None:
    run = lease(
        caller_environment=pairs(A=b"caller", B=b"caller", C=b"caller"),
        environment_variables=pairs(A=b"run"),
    )

    env = composed(run, env={b"A": b"environment", b"B": b"environment"})

    assert (env[b"A"], env[b"B"], env[b"C"]) == (b"run", b"environment", b"caller")


def test_variables_of_the_caller_stay_away_from_other_targets() -> None:
    env = composed(lease(caller_environment=pairs(HOME=b"/home/ann")), is_local=False)

    assert b"HOME" not in env


def test_variables_can_not_pretend_to_be_another_run() -> None:
    env = composed(lease(environment_variables=pairs(RUNYARD_RUN_ID=b"other_1_00000000")))

    assert env[b"RUNYARD_RUN_ID"] == b"iris_1764000000_0a1b2c3d"


def test_variables_keep_what_the_user_set_for_python() -> None:
    run = lease(
        environment_variables=pairs(PYTHONUNBUFFERED=b"", PYTHONPATH=b"/mine:/too"),
    )

    env = composed(run)

    assert env[b"PYTHONUNBUFFERED"] == b""
    assert env[b"PYTHONPATH"] == b"/mine:/too:/node/lib.zip"


def test_path_begins_with_the_environments_programs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    python = os.fsencode(tmp_path / "bin/python")

    env = composed(lease(caller_environment=pairs(PATH=b"/usr/bin:/bin")), python)

    assert env[b"PATH"] == os.fsencode(tmp_path / "bin") + b":/usr/bin:/bin"


def test_path_of_a_plain_installation_keeps_the_users_order() -> None:
    env = composed(lease(caller_environment=pairs(PATH=b"/home/ann/bin:/usr/bin")))

    assert env[b"PATH"] == b"/home/ann/bin:/usr/bin"


def test_path_that_the_run_sets_is_left_alone() -> None:
    env = composed(lease(environment_variables=pairs(PATH=b"/only/this")))

    assert env[b"PATH"] == b"/only/this"


def test_gpus_that_were_given_are_the_only_ones_seen() -> None:
    run = lease(caller_environment=pairs(CUDA_VISIBLE_DEVICES=b"0,1,2,3"))

    assert composed(run, gpus=(1, 3))[b"CUDA_VISIBLE_DEVICES"] == b"1,3"


def test_gpus_that_nobody_asked_for_are_those_of_the_caller() -> None:
    run = lease(caller_environment=pairs(CUDA_VISIBLE_DEVICES=b"2"))

    assert composed(run)[b"CUDA_VISIBLE_DEVICES"] == b"2"
    assert b"CUDA_VISIBLE_DEVICES" not in composed(lease())


def test_arguments_of_a_script_are_bytes_and_unchanged() -> None:
    given = [b"--name=a b", b"", b"'\"\n", b"\xff\xfe", b"*"]
    run = lease(script=runs_pb2.Script(path="sub/tr\u00e4in.py", arguments=given))

    argv = arguments(run.spec, b"/env/bin/python")

    assert argv == [b"/env/bin/python", "sub/tr\u00e4in.py".encode(), *given]


def test_arguments_of_a_command_are_taken_as_they_are() -> None:
    run = lease(command=runs_pb2.Command(argv=[b"echo", b"$HOME"]))

    assert arguments(run.spec, b"/env/bin/python") == [b"echo", b"$HOME"]


@pytest.mark.parametrize("max_duration_s", [None, 2.5])
def test_spec_carries_bytes_and_limits(max_duration_s: float | None) -> None:
    run = lease(
        merge_stderr=True,
        command=runs_pb2.Command(argv=[b"x", b"\xff"]),
        environment_variables=[EnvironmentVariable(name=b"K\xfe", value=b"v")],
    )
    run.spec.cancel_grace.FromSeconds(3)
    if max_duration_s is not None:
        run.spec.max_duration.FromNanoseconds(int(max_duration_s * 1e9))

    spec = spec_of(run)

    assert spec["format"] == 1
    assert spec["argv"] == ["x", "\udcff"]
    assert spec["env"]["K\udcfe"] == "v"
    assert spec["cwd"] == BUNDLE.work
    assert (spec["run_id"], spec["attempt"], spec["epoch"]) == (BUNDLE.key.run_id, 2, 7)
    assert spec["merge_stderr"] is True
    assert spec["grace_s"] == 3.0
    assert spec["max_duration_s"] == max_duration_s
    assert spec["spool_bound_bytes"] == 9
    assert spec["agent"] == {"gpus": [1]}


def test_spec_gives_thirty_seconds_of_grace_unless_told() -> None:
    assert spec_of(lease())["grace_s"] == 30.0


def test_runs_of_one_specification_have_specs_of_their_own() -> None:
    specs = Specs(is_local=True, library="/node/lib.zip", spool_bound_bytes=9)
    first = lease(command=runs_pb2.Command(argv=[b"x"]))
    second = lease(command=runs_pb2.Command(argv=[b"x"]))
    second.ref.run = second.ref.run[:-1] + "d"
    second.ref.attempt, second.ref.epoch = 1, 8
    key = Key("iris_1764000000_0a1b2c3d"[:-1] + "d", 1)

    spec_of(first, specs)
    spec = spec_of(second, specs, Bundle(f"/node/runs/{key}", key))

    assert (spec["run_id"], spec["attempt"], spec["epoch"]) == (key.run_id, 1, 8)
    assert spec["cwd"] == f"/node/runs/{key}/work"
    assert spec["env"]["RUNYARD_RUN_ID"] == key.run_id
    assert spec["env"]["RUNYARD_ATTEMPT"] == "1"
    assert spec["env"]["RUNYARD_JOB_DIR"] == f"/node/runs/{key}/job"


def test_runs_of_other_specifications_or_environments_share_nothing() -> None:
    specs = Specs(is_local=True, library="/node/lib.zip", spool_bound_bytes=9)
    run = lease(command=runs_pb2.Command(argv=[b"x"]))
    other = lease(command=runs_pb2.Command(argv=[b"y"]))
    venv = ProvidedEnvironment(python=b"/v/bin/python", env={b"VIRTUAL_ENV": b"/v"})

    contents = [
        spec_of(run, specs),
        spec_of(other, specs),
        json.loads(specs.content(run, BUNDLE, venv, (), {})),
        json.loads(specs.content(run, BUNDLE, venv, (3,), {})),
    ]

    assert [content["argv"] for content in contents] == [["x"], ["y"], ["x"], ["x"]]
    assert [content["env"].get("VIRTUAL_ENV") for content in contents] == [None, None, "/v", "/v"]
    assert [content["env"].get("CUDA_VISIBLE_DEVICES") for content in contents] == [None] * 3 + [
        "3"
    ]


def test_variable_of_the_run_can_not_name_another_run() -> None:
    run = lease(environment_variables=pairs(RUNYARD_RUN_ID=b"another", RUNYARD_JOB_DIR=b"/x"))

    env = spec_of(run)["env"]

    assert (env["RUNYARD_RUN_ID"], env["RUNYARD_JOB_DIR"]) == (BUNDLE.key.run_id, BUNDLE.job)
