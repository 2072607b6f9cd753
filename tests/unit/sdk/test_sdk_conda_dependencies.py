"""The methods of CondaDependencies that Azure ML's scripts call, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard import CondaDependencies, SpecInvalid, Unsupported


@pytest.mark.parametrize("editable", ["-e .", "--editable git+https://x.example/r.git", "-e=pkg"])
def test_editable_package_is_refused_when_it_is_added(editable: str) -> None:
    packages = CondaDependencies()

    with pytest.raises(SpecInvalid, match="is on this machine only"):
        packages.add_pip_package(editable)

    assert packages.pip_packages == []


def test_indexes_and_find_links_are_options() -> None:
    packages = CondaDependencies.create(pip_packages=["six"])
    packages.set_pip_option("--find-links https://f.example/wheels")
    packages.set_pip_option("--pre")
    packages.remove_pip_option("--pre")

    assert packages.to_requirements().index_options == ("--find-links https://f.example/wheels",)
    with pytest.raises(SpecInvalid, match="'numpy' is no option of pip") as e:
        packages.set_pip_option("numpy")
    assert "add_pip_package" in e.value.hint


def test_option_that_is_not_served_is_named_at_the_latest_when_it_is_sent() -> None:
    packages = CondaDependencies.create(pip_packages=["six"])
    packages.set_pip_option("--no-cache-dir")

    with pytest.raises(Unsupported, match="--no-cache-dir is not served"):
        packages.to_requirements()


def test_merged_requirements_have_no_repeat_and_keep_their_order() -> None:
    merged = CondaDependencies.merge_requirements(["b==1", "a", " b==1 ", "b==2"])

    assert merged == ["b==1", "a", "b==2"]


def test_tensorflow_is_added_for_a_processor_and_a_version() -> None:
    packages = CondaDependencies()
    packages.add_tensorflow_pip_package(version="2.16.1")
    packages.add_tensorflow_conda_package("gpu")

    assert packages.pip_packages == ["tensorflow==2.16.1"]
    assert packages.conda_packages == ["tensorflow-gpu"]
    with pytest.raises(SpecInvalid, match="core_type is 'cpu' or 'gpu', not 'tpu'"):
        packages.add_tensorflow_pip_package("tpu")


def test_what_has_no_meaning_here_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(Unsupported, match="CNTK is not served") as cntk:
        CondaDependencies().add_cntk_package()
    with pytest.raises(Unsupported, match="sdk_origin_url is not served") as origin:
        CondaDependencies.sdk_origin_url()

    assert "from_docker_image" in cntk.value.hint
    assert "set_pip_index_url" in origin.value.hint
    assert CondaDependencies.get_default_number_of_packages() == 0


def test_dict_and_text_say_the_same_as_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packages = CondaDependencies.create(pip_packages=["six"], conda_packages=["numpy"])
    packages.add_channel("mine")
    packages.remove_channel("other")

    path = packages.save()

    assert path == "conda_dependencies.yml"
    assert (
        CondaDependencies(path).as_dict()
        == packages.as_dict()
        == {
            "name": "project_environment",
            "dependencies": ["numpy", {"pip": ["six"]}],
            "channels": ["mine"],
        }
    )
    assert CondaDependencies().as_dict() == {"name": "project_environment", "dependencies": []}
