"""Whether an environment is worth sealing, and which C library it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.core.sealing import TINY_BYTES, fetch_s, is_worth_sealing
from runyard_agent.environments.libc import is_older, libc_version, needed_by, needed_libc

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("build_s", "size_bytes", "files", "is_worth"),
    [
        (600.0, TINY_BYTES - 1, 10, False),  # tiny, however long it took
        (9.9, 200 * MIB, 5_000, False),  # built quickly
        (90.0, 6 * GIB, 30_000, False),  # fetching so much takes longer
        (15.0, 300 * MIB, 6_000, True),
        (300.0, 6 * GIB, 30_000, True),
    ],
)
def test_environment_is_sealed_where_building_is_dearer_than_fetching(
    build_s: float, size_bytes: int, files: int, is_worth: bool
) -> None:
    assert is_worth_sealing(build_s, size_bytes, files) is is_worth


@given(st.floats(0, 1e5), st.integers(0, 1 << 40), st.integers(0, 1_000_000), st.floats(0, 1e5))
def test_longer_build_is_never_worth_less(
    build_s: float, size_bytes: int, files: int, more_s: float
) -> None:
    if is_worth_sealing(build_s, size_bytes, files):
        assert is_worth_sealing(build_s + more_s, size_bytes, files)
        assert build_s > fetch_s(size_bytes, files)


@pytest.mark.parametrize(
    ("platforms", "needed"),
    [
        (["any"], ()),
        (["manylinux_2_17_x86_64.manylinux2014_x86_64"], (2, 17)),
        (["manylinux_2_28_x86_64", "manylinux2010_x86_64"], (2, 12)),
        (["manylinux1_x86_64"], (2, 5)),
        (["musllinux_1_2_x86_64"], ()),
        (["linux_x86_64"], tuple(map(int, libc_version().split(".")))),
    ],
)
def test_wheel_needs_what_its_tags_say(platforms: list[str], needed: tuple[int, ...]) -> None:
    assert needed_by(platforms) == needed


def test_environment_needs_what_its_newest_pip_package_needs(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, installer, tag in (
        ("new", "uv", "manylinux_2_28_x86_64"),
        ("pure", "uv", "any"),
        ("own", "conda", "linux_x86_64"),
    ):
        info = site / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: cp311-cp311-{tag}\n")
        (info / "INSTALLER").write_text(f"{installer}\n")

    assert needed_libc(tmp_path) == "2.28"
    assert is_older("2.17", than="2.28")
    assert is_older("", than="2.5")
    assert not is_older("2.36", than="2.28")
