from __future__ import annotations

import pytest

from runyard_contract.digest import digest_bytes
from runyard_contract.environment_spec import is_python_version, lock_hash, spec_hash
from runyardpb.v1.environments_pb2 import EnvironmentSpec, PipPackages, UserManagedPython

LINUX = "linux-x86_64-cp311"


def pip(*requirements: str, base: bytes = b"", version: str = "") -> EnvironmentSpec:
    return EnvironmentSpec(
        pip=PipPackages(
            requirements=requirements, base_interpreter_path=base, python_version=version
        )
    )


def test_hash_of_a_specification_does_not_depend_on_where_python_is() -> None:
    here = pip("numpy", base=b"/home/a/.venv/bin/python", version="3.11")
    before = here.SerializeToString(deterministic=True)

    assert spec_hash(here) == spec_hash(pip("numpy", base=b"/opt/python", version="3.11"))
    assert spec_hash(here) == spec_hash(pip("numpy", version="3.11"))
    assert here.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "other",
    [
        pip("numpy", "scipy"),
        pip("numpy", version="3.12"),
        EnvironmentSpec(pip=PipPackages(requirements=["numpy"], constraints=["a<2"])),
        EnvironmentSpec(pip=PipPackages(requirements=["numpy"], index_options=["--pre"])),
        EnvironmentSpec(user_managed=UserManagedPython(interpreter_path=b"/opt/python")),
    ],
)
def test_hash_of_a_specification_depends_on_all_else(other: EnvironmentSpec) -> None:
    assert spec_hash(pip("numpy", base=b"/opt/python")) != spec_hash(other)


def test_hash_of_a_user_managed_specification_is_of_its_interpreter() -> None:
    first, second = (
        EnvironmentSpec(user_managed=UserManagedPython(interpreter_path=path))
        for path in (b"/a", b"/b")
    )

    assert spec_hash(first) != spec_hash(second)


def test_hash_of_a_lock_is_the_digest_of_platform_and_text() -> None:
    assert lock_hash(LINUX, "six==1\n") == digest_bytes(b"linux-x86_64-cp311six==1\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", True), ("3.11", True), ("3.11.4", True), ("2.7", False), (">=3.9,<3.12", False),
     ("3.11.4.1", False), ("3.x", False), ("", False), ("3.11\n", False)],
)  # fmt: skip
def test_python_version_is_one_version_of_python_3(text: str, expected: bool) -> None:
    assert is_python_version(text) is expected
