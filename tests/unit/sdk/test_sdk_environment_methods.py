"""Methods of Azure ML's Environment that have no far side: copies, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runyard import Environment, Unsupported, Workspace
from runyard.runconfig import ContainerRegistry


def test_clone_is_a_copy_of_its_own_without_a_version() -> None:
    env = Environment("iris", "3", {"A": "1"})
    env.python.conda_dependencies.add_pip_package("six")

    copy = env.clone("iris-next")
    copy.python.conda_dependencies.add_pip_package("idna")
    copy.environment_variables["B"] = "2"

    assert (copy.name, copy.version) == ("iris-next", None)
    assert copy.python.conda_dependencies.pip_packages == ["six", "idna"]
    assert (env.name, env.version) == ("iris", "3")
    assert env.python.conda_dependencies.pip_packages == ["six"]
    assert env.environment_variables == {"A": "1"}


def test_registry_of_an_image_is_named_in_azure_mls_place() -> None:
    env = Environment.from_docker_image("e", "team/x:1", ContainerRegistry("ghcr.io"))

    docker = env.to_specification().docker

    assert docker is not None
    assert docker.image == "ghcr.io/team/x:1"


@pytest.mark.parametrize(
    ("method", "arguments", "instead"),
    [
        ("get_image_details", (None,), "runyard environment show"),
        ("add_private_pip_wheel", (None, "x.whl"), "--find-links"),
        ("from_docker_build_context", ("e", None), "from_dockerfile"),
    ],
)
def test_method_without_a_meaning_here_says_what_to_do_instead(
    method: str, arguments: tuple[Any, ...], instead: str
) -> None:
    with pytest.raises(Unsupported, match=f"Environment.{method} is not served") as e:
        getattr(Environment("e"), method)(*arguments)

    assert instead in e.value.hint


def test_options_of_another_kind_of_local_build_are_refused_by_name(workspace: Workspace) -> None:
    env = Environment("e")

    with pytest.raises(Unsupported, match="build_local has no platform, useDocker here"):
        env.build_local(workspace, platform="linux", useDocker=True)


def test_settings_of_r_and_of_a_registrys_identity_are_refused_by_key() -> None:
    env = Environment.from_docker_image("e", "debian:12")
    env.r = {"rVersion": "4.0"}
    env.docker.base_image_registry.registry_identity = {"clientId": "x"}

    with pytest.raises(Unsupported) as e:
        env.to_specification()

    assert e.value.metadata["keys"] == "docker.baseImageRegistry, r"


def test_serving_stack_of_azure_ml_is_kept_and_changes_no_run(tmp_path: Path) -> None:
    env = Environment.from_docker_image("e", "debian:12")
    plain = env.to_specification()
    env.inferencing_stack_version = "latest"

    env.save_to_directory(tmp_path / "e")

    assert Environment.load_from_directory(tmp_path / "e").inferencing_stack_version == "latest"
    assert env.to_specification() == plain
