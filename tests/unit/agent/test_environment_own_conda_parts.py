"""What the node's own conda programs print, and what a node has."""

from __future__ import annotations

import json

import pytest

from runyard_agent.environments.conda_lock import CondaPackage, solved
from runyard_agent.environments.conda_programs import CondaProgram, Unfit, judge
from runyard_agent.environments.own_conda import NotDone, channel_of, planned, read_answer, why
from runyard_agent.environments.programs import Outcome
from runyard_agent.environments.virtual_packages import unmet

RECORD = {
    **{"name": "x", "version": "1", "build_string": "h_0", "build_number": 0, "depends": None},
    **{"url": "https://m/c/noarch/x-1-h_0.conda", "md5": "a" * 32, "subdir": "noarch"},
}


@pytest.mark.parametrize(
    ("said", "version", "is_conda"),
    [
        ("2.0.5\n", "2.0.5", False),
        ("conda 24.9.2\n", "24.9.2", True),
        ("WARNING: x\nmamba 2.1.0\nconda 24.11.0\n", "2.1.0", False),
    ],
)
def test_version_is_read(said: str, version: str, is_conda: bool) -> None:
    assert judge("/p", said) == CondaProgram("/p", version, is_conda)


@pytest.mark.parametrize("said", ["conda 24.7.1", "1.5.8", "mamba 1.5.8\nconda 24.9.2", "", "?"])
def test_program_that_is_too_old_or_tells_nothing_is_unfit(said: str) -> None:
    assert isinstance(judge("/p", said), Unfit)


def test_answer_is_found_among_other_output() -> None:
    text = 'Channels:\n - {x}\n{"actions": {"LINK": []}}\nbye {"a": 1}\n'

    assert read_answer(text) == {"actions": {"LINK": []}}
    assert read_answer("nothing") == {}


def test_package_is_told_by_fetch_and_lies_at_the_channel_itself() -> None:
    link = {"name": "x", "dist_name": "x-1-h_0", "version": "1"}
    answer = {"actions": {"FETCH": [RECORD], "LINK": [link]}}

    (found,) = planned(answer, {"https://m/c/": "https://own/c"})

    assert found.url == "https://own/c/noarch/x-1-h_0.conda"
    assert (found.digest, found.release) == ("a" * 32, "x 1 h_0")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"actions": {"LINK": [{"name": "x", "dist_name": "x-1-h_0"}]}},
        {"actions": {"LINK": [{**RECORD, "md5": ""}]}},
        {"actions": {"LINK": ["x-1-h_0"]}},
        {"actions": {"FETCH": None}},
    ],
)
def test_answer_that_does_not_say_all_is_not_taken(answer: dict[str, object]) -> None:
    with pytest.raises(NotDone):
        list(planned(answer, {}))


@pytest.mark.parametrize(
    ("answer", "said", "expected"),
    [
        ({"solver_problems": ["nothing provides x"]}, "", "nothing provides x"),
        ({"message": "PackagesNotFoundError:\n - x"}, "", "PackagesNotFoundError: - x"),
        ({}, "one\ncritical libmamba Aborted.\n\n", "critical libmamba Aborted"),
        ({}, "", "it ended with 1"),
    ],
)
def test_cause_of_a_failure_is_one_line(
    answer: dict[str, object], said: str, expected: str
) -> None:
    assert why(Outcome(1, json.dumps(answer).encode(), said)) == expected


def test_channel_of_a_file_is_its_address_without_folder_and_name() -> None:
    assert channel_of("file:///srv/c/noarch/x-1-0.conda") == "file:///srv/c"


def test_lock_is_the_same_for_what_either_tells() -> None:
    def lock(**more: object) -> object:
        about = {**RECORD, "build": "h_0", **more}
        return solved([CondaPackage("u", "d", about)])

    assert lock(depends=None, timestamp=1, license="None", track_features="") == lock(
        depends=[], timestamp=1000, constrains=[]
    )
    assert lock(depends=["b", "a"]) == lock(depends=["a", "b"])


def test_what_others_need_comes_first_and_python_before_its_pip() -> None:
    needs = {"app": ["lib >=1", "python"], "lib": ["python"], "pip": ["python"], "python": ["pip"]}
    packages = [
        CondaPackage(name, "", {"name": name, "depends": depends})
        for name, depends in needs.items()
    ]

    order = [one.name for one in solved(reversed(packages)).packages]

    assert sorted(order) == sorted(needs)
    assert order.index("python") < min(order.index(one) for one in ("app", "lib", "pip"))
    assert order.index("lib") < order.index("app")


@pytest.mark.parametrize(
    ("need", "is_met"),
    [
        ("__unix", True),
        ("__unix *", True),
        ("__glibc >=2.17,<3.0.a0", True),
        ("__glibc >=2.36", True),
        ("__glibc 2.36.*", True),
        ("__glibc >=2.37", False),
        ("__glibc ==2.35", False),
        ("__cuda >=12", False),
        ("__archspec 1.* x86_64_v3", False),
        ("__glibc ~=2", False),
    ],
)
def test_needs_of_a_lock_are_compared_with_the_node(need: str, is_met: bool) -> None:
    has = {"__unix": "", "__linux": "6.1.0-13-amd64", "__glibc": "2.36"}

    assert (unmet([need], has) == []) is is_met


def test_this_node_has_a_c_library_and_a_kernel() -> None:
    assert unmet(["__unix", "__linux >=2", "__glibc >=2.5"]) == []
