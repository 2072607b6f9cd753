from __future__ import annotations

import pytest

from runyard_contract.digest import digest_bytes
from runyard_contract.environment_spec import (
    channel_fault,
    has_credentials,
    is_python_version,
    lock_hash,
    match_spec_fault,
    spec_hash,
)
from runyardpb.v1.environments_pb2 import (
    CondaPackages,
    EnvironmentSpec,
    PipPackages,
    UserManagedPython,
)

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
        EnvironmentSpec(conda=CondaPackages(packages=["numpy"], channels=["conda-forge"])),
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


def test_hash_of_conda_packages_depends_on_the_order_of_channels() -> None:
    first, second = (
        EnvironmentSpec(conda=CondaPackages(packages=["numpy"], channels=channels))
        for channels in (["mine", "conda-forge"], ["conda-forge", "mine"])
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


@pytest.mark.parametrize(
    "channel",
    ["conda-forge", "mine/label/dev", "https://x.example/channel", "http://127.0.0.1:8000",
     "file:///srv/channel"],
)  # fmt: skip
def test_channels_are_names_and_urls(channel: str) -> None:
    assert channel_fault(channel) == ""


@pytest.mark.parametrize(
    ("channel", "named"),
    [
        ("https://me:secret@x.example/channel", "credentials"),
        ("https://x.example/t/secret/channel", "credentials"),
        ("defaults", "defaults"),
        ("ftp://x.example/channel", "ftp://x.example/channel"),
        ("mine;reboot", "mine;reboot"),
        ("../channel", "../channel"),
        ("-c", "-c"),
        ("", "no channel"),
    ],
)
def test_other_channels_are_refused_by_name_but_not_with_their_secrets(
    channel: str, named: str
) -> None:
    fault = channel_fault(channel)

    assert named in fault
    assert "secret" not in fault


def test_credentials_are_users_and_passwords_before_a_host() -> None:
    assert has_credentials("--index-url=https://me:pw@x.example/simple")
    assert has_credentials("https://token@x.example")
    assert not has_credentials("--find-links=https://x.example/t/wheels/a@b")


@pytest.mark.parametrize(
    "text",
    ["numpy", "numpy>=1.26,<2", "numpy =1.26", "numpy=1.26=py311h1_0", "numpy==1.26.*", "_mutex",
     "conda-forge::numpy", "mine/label/dev::numpy 1.26 *_cpython", "x (>=1,<2)|>3", "r-base!=4.1"],
)  # fmt: skip
def test_match_specs_of_conda_are_fine(text: str) -> None:
    assert match_spec_fault(text) == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("numpy;reboot", "'numpy;reboot'"),
        ("$(reboot)", "'$(reboot)'"),
        ("`reboot`", "'`reboot`'"),
        ("numpy&&reboot", "'numpy&&reboot'"),
        ("numpy >=1; reboot", "'numpy >=1; reboot'"),
        ("numpy[version='>=1']", "\"numpy[version='>=1']\""),
        ("--force", "'--force'"),
        ("../numpy", "'../numpy'"),
        ("n\u00fcmpy", "'n\\xfcmpy'"),
        ("https://me:secret@x.example/c::numpy", "credentials"),
        ("a;b::numpy", "'a;b'"),
    ],
)
def test_what_is_no_match_spec_is_refused_by_name(text: str, named: str) -> None:
    fault = match_spec_fault(text)

    assert named in fault
    assert "secret" not in fault
