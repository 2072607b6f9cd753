from __future__ import annotations

import pytest

from runyard.cli.render.lock_changes import change_lines, refresh_json
from runyard.lock_difference import Change, Locked, lock_difference, locked_packages

PIP = """numpy==1.26.4 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
rygit @ git+https://host.example/rygit@0123456
Torch[cuda]==2.3.0 ; python_version >= "3.9" \\
    --hash=sha256:cc
"""
CONDA = """# runyard: conda packages, format 1
# needs __glibc >=2.17
@EXPLICIT
# about {"depends": ["python"], "name": "six"}
https://x.example/channel/noarch/six-1.16.0-pyh_0.conda#sha256:11
https://x.example/channel/linux-64/my-tool-2.0-0.tar.bz2#abc
# pip joblib==1.3.2 --hash=sha256:22
"""
DOCKER = """# runyard container 1
base: python:3.12
id: sha256:image1
digest: python@sha256:digest1
# pip packages on top
six==1.16.0 \\
    --hash=sha256:dd
"""


def test_packages_of_a_pip_lock_have_versions_and_hashes() -> None:
    assert locked_packages(PIP) == {
        "numpy": Locked("1.26.4", ("sha256:aa", "sha256:bb")),
        "rygit": Locked("git+https://host.example/rygit@0123456"),
        "Torch": Locked("2.3.0", ("sha256:cc",)),
    }


def test_packages_of_a_conda_lock_have_versions_with_builds() -> None:
    assert locked_packages(CONDA) == {
        "six": Locked("1.16.0-pyh_0", ("sha256:11",)),
        "my-tool": Locked("2.0-0", ("abc",)),
        "joblib": Locked("1.3.2", ("sha256:22",)),
    }


def test_image_of_a_container_lock_has_its_digest_for_version() -> None:
    assert locked_packages(DOCKER) == {
        "image python:3.12": Locked("python@sha256:digest1"),
        "six": Locked("1.16.0", ("sha256:dd",)),
    }


@pytest.mark.parametrize("text", [PIP, CONDA, DOCKER, ""])
def test_a_lock_does_not_differ_from_itself(text: str) -> None:
    assert lock_difference(text, text) == []


def test_difference_names_what_was_added_removed_and_changed() -> None:
    before = "a==1 \\\n    --hash=sha256:1\nb==1\nc==1 \\\n    --hash=sha256:3\n"
    after = "a==2 \\\n    --hash=sha256:2\nd==1\nc==1 \\\n    --hash=sha256:4\n"

    changes = lock_difference(before, after)

    assert changes == [
        Change("a", "1", "2"),
        Change("b", "1", None),
        Change("c", "1", "1"),
        Change("d", None, "1"),
    ]
    assert [*change_lines(changes)] == [
        "  ~ a 1 -> 2",
        "  - b 1",
        "  ~ c 1: other files of the same version",
        "  + d 1",
    ]
    assert refresh_json("h1", "h2", changes) == {
        "lock_before": "h1",
        "lock": "h2",
        "added": [{"name": "d", "before": None, "after": "1"}],
        "removed": [{"name": "b", "before": "1", "after": None}],
        "changed": [
            {"name": "a", "before": "1", "after": "2"},
            {"name": "c", "before": "1", "after": "1"},
        ],
    }


def test_a_new_image_of_a_tag_is_a_change() -> None:
    assert lock_difference(DOCKER, DOCKER.replace("digest1", "digest2")) == [
        Change("image python:3.12", "python@sha256:digest1", "python@sha256:digest2")
    ]
