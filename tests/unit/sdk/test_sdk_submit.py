"""Submitting a run: what reaches the daemon, and what is refused before anything is sent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runyard import (
    Environment,
    Experiment,
    RunConfiguration,
    ScriptRunConfig,
    SpecInvalid,
    Unsupported,
    Workspace,
)
from runyard_contract.errors import BlobMissing, NameInvalid, SourceInvalid, WriterBusy
from support.fake_control import FakeControl


def submit(
    workspace: Workspace, config: ScriptRunConfig | RunConfiguration, **more: object
) -> None:
    Experiment(workspace, "iris").submit(config, **more)  # type: ignore[arg-type]


def test_run_has_script_arguments_and_the_submitting_interpreter(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    run = Experiment(workspace, "iris").submit(
        ScriptRunConfig(script="train.py", arguments=["--alpha", 0.1, 3, b"\xff", "a b\n'"]),
        tags={"kind": "test"},
        display_name="first",
    )

    request = control.state.created[0]
    assert request.parent == "workspaces/default/experiments/iris"
    assert request.spec.compute_target == "local"
    assert request.spec.script.path == "train.py"
    assert list(request.spec.script.arguments) == [b"--alpha", b"0.1", b"3", b"\xff", b"a b\n'"]
    assert request.spec.caller_interpreter == sys.executable.encode()
    assert request.display_name == "first"
    assert dict(request.tags) == {"kind": "test"}
    assert run.id == "iris_1700000001_00000001"
    assert run.get_status() == "Queued"


def test_caller_environment_is_a_fixed_list(
    control: FakeControl, workspace: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    submit(workspace, ScriptRunConfig(script="train.py", environment_variables={"A": b"\xff"}))

    spec = control.state.created[0].spec
    names = {variable.name for variable in spec.caller_environment}
    assert {b"PATH", b"HOME", b"CUDA_VISIBLE_DEVICES", b"HTTPS_PROXY", b"LC_TIME"} <= names
    assert b"AWS_SECRET_ACCESS_KEY" not in names
    assert [(v.name, v.value) for v in spec.environment_variables] == [(b"A", b"\xff")]


def test_unchanged_tree_sends_one_message(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    submit(workspace, ScriptRunConfig(script="train.py"))
    control.state.calls.clear()

    submit(workspace, ScriptRunConfig(script="train.py"))

    assert control.state.calls == {"CreateRun": 1}


def test_daemon_that_lost_the_snapshot_gets_it_again(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    submit(workspace, ScriptRunConfig(script="train.py"))
    control.state.snapshots.clear()
    control.state.blobs.clear()

    submit(workspace, ScriptRunConfig(script="train.py"))

    assert len(control.state.created) == 2
    assert control.state.created[1].spec.snapshot in control.state.snapshots


def test_repeat_after_a_lost_answer_has_the_same_request_id(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    control.state.fail_next["CreateRun"] = BlobMissing.of(["0" * 64])

    submit(workspace, ScriptRunConfig(script="train.py"))

    assert control.state.calls["CreateRun"] == 2
    assert len(control.state.created) == 1


def test_errors_of_the_daemon_arrive_as_their_class(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    control.state.fail_next["CreateRun"] = WriterBusy("too much queued", hint="try again")

    with pytest.raises(WriterBusy, match="too much queued") as caught:
        submit(workspace, ScriptRunConfig(script="train.py"))

    assert caught.value.hint == "try again"


def test_every_call_names_the_version(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    from runyard_contract.version import build_id

    submit(workspace, ScriptRunConfig(script="train.py"))

    assert {metadata["runyard-version"] for metadata in control.state.metadata} == {build_id()}


def test_command_needs_no_script(control: FakeControl, workspace: Workspace, project: Path) -> None:
    submit(workspace, ScriptRunConfig(command=["sh", "-c", "echo $0", 7]))

    assert list(control.state.created[0].spec.command.argv) == [b"sh", b"-c", b"echo $0", b"7"]


def test_nearer_settings_come_before_the_run_configuration(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    base = RunConfiguration(script="train.py", arguments=["--from", "config"])
    base.max_run_duration_seconds = 60
    base.environment.environment_variables = {"A": "config", "B": "config"}

    submit(
        workspace,
        ScriptRunConfig(run_config=base, arguments=["mine"], environment_variables={"A": "mine"}),
    )
    submit(workspace, base)

    first, second = (request.spec for request in control.state.created)
    assert list(first.script.arguments) == [b"mine"]
    assert {v.name: v.value for v in first.environment_variables} == {
        b"A": b"mine",
        b"B": b"config",
    }
    assert first.max_duration.seconds == 60
    assert list(second.script.arguments) == [b"--from", b"config"]


def test_resources_and_limits_reach_the_daemon(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    submit(
        workspace,
        ScriptRunConfig(
            script="train.py",
            cpus=1.5,
            memory="2GiB",
            gpus=1,
            priority=-5,
            max_run_duration_seconds=0.5,
            merge_stderr=True,
            cancel_grace_seconds=3,
        ),
    )

    spec = control.state.created[0].spec
    assert spec.resources.cpu_millicores == 1500
    assert spec.resources.memory_bytes == 2 << 30
    assert spec.resources.gpu_count == 1
    assert spec.priority == -5
    assert spec.max_duration.ToMilliseconds() == 500
    assert spec.merge_stderr
    assert spec.cancel_grace.seconds == 3


def test_pip_environment_is_built_on_the_callers_python(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    (project / "requirements.txt").write_text("--index-url https://example.org/simple\nnumpy<3\n")
    environment = Environment.from_pip_requirements("iris", project / "requirements.txt")

    submit(workspace, ScriptRunConfig(script="train.py", environment=environment))

    pip = control.state.created[0].spec.environment.pip
    assert list(pip.requirements) == ["numpy<3"]
    assert list(pip.index_options) == ["--index-url=https://example.org/simple"]
    assert pip.base_interpreter_path == sys.executable.encode()


def test_stored_environment_travels_by_name(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    submit(workspace, ScriptRunConfig(script="train.py", environment="iris-env"))

    spec = control.state.created[0].spec
    assert spec.environment_name == "iris-env"
    assert not spec.HasField("environment")


def test_version_of_a_stored_environment_travels_in_its_name(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    submit(workspace, ScriptRunConfig(script="train.py", environment="iris-env:2"))

    name = control.state.created[0].spec.environment_name
    assert name == "workspaces/default/environments/iris-env/versions/2"
    with pytest.raises(NameInvalid, match="no number of a version"):
        submit(workspace, ScriptRunConfig(script="train.py", environment="iris-env:new"))


def test_registry_password_is_not_in_the_definition(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    environment = Environment("private")
    environment.docker.base_image_registry.password = "hunter2"  # noqa: S105

    submit(workspace, ScriptRunConfig(script="train.py", environment=environment))

    assert "hunter2" not in control.state.created[0].SerializeToString().decode("latin-1")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cpus": -1}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"memory": "lots"}, "memory"),
        ({"memory": 0}, "memory"),
        ({"gpus": -2}, "gpus"),
        ({"priority": 1001}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"max_run_duration_seconds": -3}, "max_duration"),
        ({"max_run_duration_seconds": 1e12}, "max_duration"),
        ({"arguments": [None]}, r"arguments\[0\]"),
        ({"arguments": ["a\0b"]}, r"arguments\[0\]"),
        ({"arguments": ["x"] * 10_001}, "10001 arguments"),
        ({"environment_variables": {"A=B": "1"}}, "A=B"),
        ({"compute_target": "x" * 17}, "compute"),
        ({"cancel_grace_seconds": 4000}, "cancel_grace"),
    ],
)
def test_absurd_value_is_named_and_nothing_is_sent(
    control: FakeControl,
    workspace: Workspace,
    project: Path,
    settings: dict[str, object],
    named: str,
) -> None:
    with pytest.raises((SpecInvalid, NameInvalid), match=named):
        submit(workspace, ScriptRunConfig(script="train.py", **settings))  # type: ignore[arg-type]

    assert not control.state.calls


@pytest.mark.parametrize(
    "option", ["distributed_job_config", "resume_from", "docker_runtime_config"]
)
def test_option_that_is_not_served_is_refused_by_name(option: str) -> None:
    with pytest.raises(Unsupported, match=option):
        ScriptRunConfig(script="train.py", **{option: object()})


@pytest.mark.parametrize("tags", [{"": "x"}, {"a\nb": "x"}, {"a": "x" * 9000}])
def test_bad_tag_is_refused(
    control: FakeControl, workspace: Workspace, project: Path, tags: dict[str, str]
) -> None:
    with pytest.raises((SpecInvalid, NameInvalid)):
        submit(workspace, ScriptRunConfig(script="train.py"), tags=tags)

    assert not control.state.calls


def test_script_that_an_ignore_rule_keeps_out_is_named_with_the_rule(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    (project / ".gitignore").write_text("# data\n*.py\n")

    with pytest.raises(SourceInvalid, match=r"train\.py.*\.gitignore:2: \*\.py"):
        submit(workspace, ScriptRunConfig(script="train.py"))


def test_text_for_arguments_is_refused() -> None:
    with pytest.raises(SpecInvalid, match="list of words"):
        ScriptRunConfig(script="train.py", arguments="--alpha 0.1")


def test_script_and_command_together_are_refused() -> None:
    with pytest.raises(SpecInvalid, match="not both"):
        ScriptRunConfig(script="train.py", command=["true"])


def test_notices_name_secrets_and_large_things_left_out(
    control: FakeControl, workspace: Workspace, project: Path
) -> None:
    (project / ".env").write_text("TOKEN=1\n")
    (project / "outputs").mkdir()
    (project / "outputs/big.bin").write_bytes(bytes(11 << 20))

    run = Experiment(workspace, "iris").submit(ScriptRunConfig(script="train.py"))

    said = "\n".join(run.notices)
    assert ".env" in said
    assert "outputs (11.0 MiB)" in said
