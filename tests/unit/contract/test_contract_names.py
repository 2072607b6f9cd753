from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract import ids
from runyard_contract.errors import NameInvalid
from runyard_contract.states import FINAL, RunState, from_v1_word, v1_word

EXPERIMENT = re.compile(r"[A-Za-z0-9][\w\-]{0,35}", re.ASCII)


@pytest.mark.parametrize(
    ("folder", "experiment"),
    [
        ("iris", "iris"),
        ("my project", "my-project"),
        ("a  (1)!b", "a-1-b"),
        ("Übung 3", "bung-3"),
        ("数据", "default"),
        ("", "default"),
        ("-_x", "x"),
        ("x" * 50, "x" * 36),
    ],
)
def test_experiment_is_named_after_the_folder(folder: str, experiment: str) -> None:
    assert ids.experiment_from_folder(folder) == experiment


@given(st.text(max_size=80))
def test_every_folder_gives_a_valid_experiment(folder: str) -> None:
    name = ids.experiment_from_folder(folder)

    assert EXPERIMENT.fullmatch(name)
    assert ids.check_experiment_name(name) == name


@given(
    st.from_regex(EXPERIMENT, fullmatch=True),
    st.integers(0, 10**11),
    st.binary(min_size=4, max_size=4),
)
def test_run_id_leads_back_to_its_experiment(experiment: str, unix_s: int, random: bytes) -> None:
    run_id = ids.make_run_id(experiment, unix_s, random)

    assert ids.experiment_of(run_id) == experiment
    assert ids.check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "name",
    [
        ids.WorkspaceName("default"),
        ids.ComputeName("default", "cpu-cluster"),
        ids.ExperimentName("default", "iris"),
        ids.RunName("default", "iris", "iris_1764000000_0a1b2c3d"),
        ids.EnvironmentName("default", "iris-env", "3"),
    ],
)
def test_resource_name_reads_back_what_it_writes(name: ids.WorkspaceName) -> None:
    assert type(name).parse(str(name)) == name


def test_resource_name_of_a_run_has_the_documented_form() -> None:
    name = ids.RunName("default", "iris", "iris_1764000000_0a1b2c3d")

    assert str(name) == "workspaces/default/experiments/iris/runs/iris_1764000000_0a1b2c3d"


@pytest.mark.parametrize(
    "text",
    ["", "runs/x", "workspaces/default", "workspaces/default/experiments/iris/runs/", "workspaces"
     "/default/experiments/iris/runs/../x", "workspaces/default/experiments/iris/runs/a/b/c"],
)  # fmt: skip
def test_resource_name_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        ids.RunName.parse(text)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (ids.check_experiment_name, "a-B_9", "-a"),
        (ids.check_experiment_name, "a", "a" * 37),
        (ids.check_experiment_name, "a" * 36, "é"),
        (ids.check_experiment_name, "a", "a\n"),
        (ids.check_workspace_name, "abc", "ab"),
        (ids.check_compute_name, "gpu-1", "1gpu"),
        (ids.check_compute_name, "a" * 16, "a" * 17),
        (ids.check_environment_name, "py3.11", "a/b"),
        (ids.check_environment_version, "1", ""),
        (ids.check_tag_key, "Größe in mm", "a\tb"),
        (ids.check_tag_key, "k" * 255, "k" * 256),
        (ids.check_metric_name, "loss/train", "x\u202egnp"),
        (ids.check_metric_name, "ü" * 127, "ü" * 128),
        (ids.check_metric_name, "a", "\ud800"),
    ],
)
def test_name_rules(check, good: str, bad: str) -> None:
    assert check(good) == good
    with pytest.raises(NameInvalid) as caught:
        check(bad)
    assert caught.value.hint.startswith("use ")
    assert str(caught.value).isprintable()


def test_names_differ_by_more_than_case() -> None:
    assert ids.name_key("Iris") == ids.name_key("iRIS") != ids.name_key("iris2")


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (RunState.NOT_STARTED, "NotStarted"),
        (RunState.QUEUED, "Queued"),
        (RunState.CANCEL_REQUESTED, "CancelRequested"),
        (RunState.CANCELED, "Canceled"),
        (RunState.NOT_RESPONDING, "NotResponding"),
    ],
)
def test_states_have_their_v1_words(state: RunState, word: str) -> None:
    assert v1_word(state) == word
    assert from_v1_word(word.lower()) is state


def test_unknown_v1_word_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Completed"):
        from_v1_word("Done")


def test_final_states_are_those_that_a_run_never_leaves() -> None:
    assert {s for s in RunState if s.is_final} == FINAL == {"COMPLETED", "FAILED", "CANCELED"}
