from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from runyard_agent.environments.lock import make_lock
from support.conda_bench import Bench, execute
from support.conda_channel import PYTHON_VERSION, CondaChannel
from support.packages import make_sdist, make_wheel

BROKEN = "def before_wheel():\n    raise SystemExit('gcc: command not found')\n"


@pytest.fixture
def bench(tmp_path: Path, conda_channel: CondaChannel) -> Bench:
    return Bench(tmp_path, conda_channel.url, conda_channel.cache)


def test_python_version_and_packages_are_those_asked_for(bench: Bench) -> None:
    minor = PYTHON_VERSION.rpartition(".")[0]
    provided = bench.get("ryleaf=1", python_version=minor)

    said = execute(provided, "import ryleaf, sys; print(ryleaf.VERSION, sys.prefix)")

    assert said == f"1.0 {os.fsdecode(provided.env[b'CONDA_PREFIX'])}"
    assert f"python {PYTHON_VERSION} 0_ry" in bench.log.text


def test_lock_is_an_explicit_list_with_hashes(bench: Bench) -> None:
    make_wheel(bench.links, "ryabove", "1.0", requires=["ryleaf"])

    lock = bench.get("ryleaf=1", pip_requirements=["ryabove"]).lock

    assert lock is not None
    assert lock.platform.startswith("linux-")
    lines = [line for line in lock.text.splitlines() if not line.startswith("#")]
    assert lines[0] == "@EXPLICIT"
    assert all("#sha256:" in line for line in lines[1:])
    assert lines[2].startswith(f"{bench.channel}/noarch/ryleaf-1.0-0_ry.conda#")
    assert "# pip ryabove==1.0\n" in lock.text


def test_pip_packages_take_what_conda_brings(bench: Bench) -> None:
    make_wheel(bench.links, "ryabove", "1.0", requires=["ryleaf>=1"])
    make_wheel(bench.links, "ryleaf", "2.5")

    provided = bench.get("ryleaf=1", pip_requirements=["ryabove"])

    said = execute(provided, "import ryabove, ryleaf; print(ryabove.VERSION, ryleaf.VERSION)")
    assert said == "1.0 1.0"
    assert bench.folders() == [Path(os.fsdecode(provided.env[b"CONDA_PREFIX"]))]


@pytest.mark.parametrize("name", ["rynowhere", "rybroken"], ids=["resolving", "building"])
def test_pip_fault_is_said_once(name: str, bench: Bench) -> None:
    make_sdist(bench.links, "rybroken", "1.0", BROKEN)

    failed = bench.fail("ryleaf", pip_requirements=[name])

    assert failed.metadata["package"] == name
    assert bench.log.text.count("Failed:") == 1
    assert bench.folders() == []


def test_pip_constraints_count(bench: Bench) -> None:
    for version in ("1.0", "2.0"):
        make_wheel(bench.links, "ryabove", version)

    provided = bench.get("ryleaf", pip_requirements=["ryabove"], pip_constraints=["ryabove<2"])

    assert execute(provided, "import ryabove; print(ryabove.VERSION)") == "1.0"


def test_pip_replaces_what_conda_brings_where_it_is_asked_to(bench: Bench) -> None:
    make_wheel(bench.links, "ryleaf", "2.5")

    provided = bench.get("ryleaf=1", pip_requirements=["ryleaf>=2"])
    plain = bench.get("ryleaf=1")

    assert execute(provided, "import ryleaf; print(ryleaf.VERSION)") == "2.5"
    # Their files are links to the same in a cache; none was changed in place.
    assert execute(plain, "import ryleaf; print(ryleaf.VERSION)") == "1.0"


def test_activation_variables_are_given_without_its_path(bench: Bench) -> None:
    provided = bench.get("ryactive")
    assert provided.lock is not None
    again = bench.get("ryactive", locks=(provided.lock,))

    prefix = provided.env[b"CONDA_PREFIX"]
    assert dict(provided.env) == {
        b"CONDA_PREFIX": prefix,
        b"CONDA_DEFAULT_ENV": prefix,
        b"RY_DATA": prefix + b"/share/ry data",
        b"RY_VALUE": b"one two",
    }
    assert again == provided
    assert bench.log.text.count("activating\n") == 1


@pytest.mark.parametrize("damage", ["missing", "cut off", "of another form"])
def test_lost_variables_of_the_activation_are_computed_again(bench: Bench, damage: str) -> None:
    first = bench.get("ryactive")
    assert first.lock is not None
    (path,) = bench.root.glob("*/activation.json")
    if damage == "missing":
        path.unlink()
    else:
        path.write_text('{"format": 9}' if damage == "of another form" else path.read_text()[:40])

    again = bench.get("ryactive", locks=(first.lock,))

    assert again.env == first.env
    assert "computing them again" in bench.log.text
    assert "Building environment" not in bench.log.text.partition("computing them again")[2]


@pytest.mark.parametrize(
    ("packages", "message", "metadata"),
    [
        (["rynowhere"], 'package "rynowhere" was not found in the conda channels (file://', {}),
        (["rydep"], "(needed by rydep 1.0)", {"package": "rygone"}),
        (["ryleaf=3"], "there is no version ryleaf 3.*", {"package": "ryleaf", "newest": "2.0"}),
        (["ryleaf", "python=3.5"], "there is no version python 3.5.*", {"package": "python"}),
        (
            ["rytop", "rynew"],
            "contradict each other: rynew 1.0 needs ryleaf >=2; rytop 1.0 needs ryleaf <2",
            {},
        ),
        (["rytop", "ryleaf>=2"], "rytop 1.0 needs ryleaf <2; you ask for ryleaf>=2", {}),
        (["ryleaf=1", "ryleaf=2"], "ryleaf 2.* and ryleaf 1.*", {}),
        (["rycuda"], "lacks an NVIDIA driver for CUDA (__cuda >=12)", {"package": "__cuda"}),
        (["rybroken"], "the conda package rybroken", {"package": "rybroken"}),
    ],
)
def test_fault_is_named(
    packages: list[str], message: str, metadata: dict[str, str], bench: Bench
) -> None:
    failed = bench.fail(*packages)

    assert message in failed.message
    assert metadata.items() <= failed.metadata.items()
    assert bench.folders() == []


def test_missing_rattler_is_named_with_the_extra(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)  # as if it were not installed

    failed = bench.fail("ryleaf")

    assert "py-rattler" in failed.message
    assert "pip install 'runyard[conda]'" in failed.advice


def test_lock_of_a_node_with_more_is_refused(bench: Bench) -> None:
    lock = bench.get("ryleaf").lock
    assert lock is not None
    text = lock.text.replace("@EXPLICIT", "# needs __glibc >=99\n@EXPLICIT")

    failed = bench.fail("ryleaf", locks=(make_lock(lock.platform, text, 0),))

    assert "lacks the C library glibc (__glibc >=99); it has __glibc " in failed.message


def test_lock_of_another_form_is_refused(bench: Bench) -> None:
    lock = bench.get("ryleaf").lock
    assert lock is not None
    changed = make_lock(lock.platform, lock.text.replace("format 1", "format 2"), 0)

    assert "another version of runyard" in bench.fail("ryleaf", locks=(changed,)).message


def test_lock_names_what_a_package_says_of_itself(bench: Bench) -> None:
    lock = bench.get("rytop").lock
    assert lock is not None

    abouts = [
        json.loads(line.removeprefix("# about "))
        for line in lock.text.splitlines()
        if line.startswith("# about ")
    ]

    # What others depend on comes first.
    assert [about["name"] for about in abouts] == ["python", "ryleaf", "rytop"]
    assert abouts[-1]["depends"] == ["__unix", "python", "ryleaf <2"]
    assert "# needs __unix\n" in lock.text
