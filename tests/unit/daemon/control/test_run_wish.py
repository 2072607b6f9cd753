from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract import limits
from runyard_daemon.control.environment_rules import (
    CondaEnvironment,
    DockerEnvironment,
    PipEnvironment,
    UserEnvironment,
)
from runyard_daemon.control.spec import (
    RunWish,
    display_name_violations,
    label_violations,
    violations,
)
from runyard_daemon.core.types import Resources

FINE = RunWish(
    size_bytes=100,
    is_build=False,
    compute="local",
    script=None,
    argv=(b"true",),
    snapshot="",
    environment=None,
    has_empty_environment=False,
    environment_name="",
    variables_of_environment=(),
    environment_version=None,
    variables=((b"A", b"1"),),
    caller_variables=(),
    resources=Resources(1000, 1 << 30, 1),
    limits=Resources(500, 1 << 30, 0),
    priority=0,
    max_duration_s=None,
    grace_s=None,
    definition_bytes=0,
    caller_interpreter=b"/usr/bin/python3",
)
PIP = PipEnvironment("3.11", ("numpy>=1",), (), ("--pre",), b"")
CONDA = CondaEnvironment("3.11", ("numpy>=1",), ("conda-forge",), ("six",), (), ("--pre",))


def fields(wish: RunWish) -> list[str]:
    return [field for field, _ in violations(wish)]


def test_a_usual_wish_is_fine() -> None:
    assert fields(FINE) == []
    assert fields(replace(FINE, environment=PIP, grace_s=0.0, max_duration_s=0.1)) == []
    assert fields(replace(FINE, is_build=True, argv=(), environment=PIP)) == []
    assert fields(replace(FINE, environment=CONDA)) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"argv": (b"x" * 131_072,)}, "spec.command.argv[0]"),
        ({"argv": (b"x" * 100_000,) * 11}, "spec.command.argv"),
        ({"variables": ((b"A", b""),) * 1001}, "spec.environment_variables"),
        ({"variables": ((b"A", b"x" * 120_000),) * 5}, "spec.environment_variables"),
        ({"variables": ((b"", b""),)}, "spec.environment_variables[0].name"),
        ({"caller_variables": ((b"A\0", b""),)}, "spec.caller_environment[0].name"),
        ({"resources": Resources(0, -1, 0)}, "spec.resources.memory_bytes"),
        ({"resources": Resources(0, 0, 10**9)}, "spec.resources.gpu_count"),
        ({"limits": Resources(0, -1, 0)}, "spec.limits.memory_bytes"),
        ({"limits": Resources(-1, 0, 0)}, "spec.limits.cpu_millicores"),
        ({"priority": -1001}, "spec.priority"),
        ({"max_duration_s": 1e12}, "spec.max_duration"),
        ({"grace_s": 3601.0}, "spec.cancel_grace"),
        ({"definition_bytes": 1 << 20}, "spec.run_definition_json"),
        ({"caller_interpreter": b"\0"}, "spec.caller_interpreter"),
        ({"has_empty_environment": True}, "spec.environment"),
        ({"environment": PIP, "environment_name": "x"}, "spec.environment_name"),
        (
            {"environment": UserEnvironment(b"\0")},
            "spec.environment.user_managed.interpreter_path",
        ),
        (
            {"environment": replace(PIP, python_version="", requirements=())},
            "spec.environment.pip.requirements",
        ),
        (
            {"environment": replace(PIP, requirements=("a\nb",))},
            "spec.environment.pip.requirements[0]",
        ),
        (
            {"environment": replace(PIP, python_version="2.7")},
            "spec.environment.pip.python_version",
        ),
        (
            {"environment": replace(PIP, index_options=("--trusted-host x",))},
            "spec.environment.pip.index_options[0]",
        ),
        (
            {"environment": replace(CONDA, python_version="2.7")},
            "spec.environment.conda.python_version",
        ),
        (
            {"environment": replace(CONDA, python_version="", packages=())},
            "spec.environment.conda.packages",
        ),
        (
            {"environment": replace(CONDA, packages=("numpy", "scipy;reboot"))},
            "spec.environment.conda.packages[1]",
        ),
        ({"environment": replace(CONDA, channels=())}, "spec.environment.conda.channels"),
        (
            {"environment": replace(CONDA, channels=("mine",) * 101)},
            "spec.environment.conda.channels",
        ),
        (
            {"environment": replace(CONDA, channels=("https://me:pw@x.example/",))},
            "spec.environment.conda.channels[0]",
        ),
        (
            {"environment": replace(CONDA, pip_requirements=("a\nb",))},
            "spec.environment.conda.pip_requirements[0]",
        ),
        (
            {"environment": replace(CONDA, pip_constraints=("",))},
            "spec.environment.conda.pip_constraints[0]",
        ),
        (
            {"environment": replace(CONDA, pip_index_options=("--index-url=https://me:pw@x/",))},
            "spec.environment.conda.pip_index_options[0]",
        ),
        ({"is_build": True, "environment": PIP}, "spec.script"),
    ],
)
def test_each_limit_is_named_by_its_field(change: dict[str, object], field: str) -> None:
    assert field in fields(replace(FINE, **change))  # type: ignore[arg-type]


@given(st.dictionaries(st.text(max_size=300), st.text(max_size=50), max_size=70))
def test_labels_are_judged_whatever_they_are(labels: dict[str, str]) -> None:
    found = list(label_violations("tags", labels))

    is_crowded = len(labels) > limits.TAGS_MAX
    assert ("tags" in [field for field, _ in found]) == is_crowded
    assert len(found) <= len(labels) + 1


def test_a_display_name_must_be_printable() -> None:
    assert list(display_name_violations("my run \u00e4 1")) == []
    assert list(display_name_violations("a\x1b[2J"))
    assert list(display_name_violations("x" * 300))


def test_an_environment_may_ask_for_a_python_alone() -> None:
    for environment in (replace(PIP, requirements=()), replace(CONDA, packages=())):
        assert fields(replace(FINE, environment=environment)) == []


DOCKER = DockerEnvironment("python:3.12-slim", "", None, "", 0, "", (), ())


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"image": ""}, "image", "exactly one of image and dockerfile"),
        ({"dockerfile": "FROM x"}, "image", "exactly one of image and dockerfile"),
        ({"image": "Python Slim"}, "image", "names no image"),
        ({"image": "", "dockerfile": "RUN true"}, "dockerfile", "has no FROM"),
        ({"shm_bytes": -1}, "shm_bytes", "out of range"),
        ({"network": "a b"}, "network", "names no network"),
        ({"mounts": ((b"data", "/data"),)}, "mounts[0]", "'data' is no absolute path"),
        ({"mounts": ((b"/data", "/runyard/work"),)}, "mounts[0]", "where runyard needs"),
        ({"arguments": ("--memery=1g",)}, "arguments", "did you mean --memory?"),
        ({"packages": PipEnvironment("", (), (), (), b"")}, "pip.requirements", "is empty"),
    ],
)
def test_faults_of_a_container_image_are_named(
    changed: dict[str, object], field: str, says: str
) -> None:
    wish = replace(FINE, environment=replace(DOCKER, **changed))  # type: ignore[arg-type]

    ((found, message),) = violations(wish)

    assert found == f"spec.environment.docker.{field}"
    assert says in message


@pytest.mark.parametrize(
    "image",
    ["python", "python:3.12-slim", "ghcr.io/team/train@sha256:" + "a" * 64, "host:5000/a/b_c:V1"],
)
def test_images_that_an_engine_can_be_asked_for_are_taken(image: str) -> None:
    assert not violations(replace(FINE, environment=replace(DOCKER, image=image)))
