"""Taking over a conda environment: a program that answers as conda or micromamba does is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from runyard import Environment, EnvironmentNotFound, SpecInvalid

# What the programs print: conda 24, micromamba 2. Each knows its own options only.
FAKE = """#!{python}
import json, os, sys
state = json.load(open({state!r}))
words = sys.argv[1:]
with open({state!r} + ".log", "a") as log:
    print(json.dumps(words), file=log)
if words[:3] == ["env", "list", "--json"]:
    print(json.dumps({{"envs": state["envs"]}}))
elif words[:2] == ["env", "export"]:
    option, wanted, *options = words[2:]
    unknown = set(options) - set(state["options"])
    if unknown:
        sys.exit("error: unrecognized arguments: " + " ".join(unknown))
    if state["fails"]:
        sys.exit(state["fails"])
    known = {{os.path.basename(one): one for one in state["envs"]}}
    prefix = known.get(wanted, "?") if option == "-n" else wanted
    if prefix in state["envs"]:
        print(state["export"])
    elif state["is_silent"]:
        print("name: " + wanted + "\\nchannels:\\ndependencies:")
    else:
        sys.exit("EnvironmentLocationNotFound: Not a conda environment: " + prefix)
elif words == ["config", "--show", "default_channels", "--json"] and state["defaults"]:
    print(json.dumps({{"default_channels": state["defaults"]}}))
else:
    sys.exit("unknown command")
"""
CONDA_SAYS = """name: iris
channels:
  - conda-forge
dependencies:
  - _libgcc_mutex=0.1
  - python=3.11.7
  - mine::numpy=1.26.4
  - pip=24.0
  - pip:
      - six==1.16.0
      - torch==2.3.0
variables:
  MODE: fast
prefix: /opt/conda/envs/iris
"""
MICROMAMBA_SAYS = """name: iris
channels:
- conda-forge
dependencies:
- numpy=1.26.4=py311h64a7726_0
- python=3.11.7=hab00c5b_1_cpython[md5=d41d8cd98f00b204e9800998ecf8427e]
- pip:
  - six==1.16.0
"""


class Program:
    """A fake of conda or one of its kin, and what it was asked."""

    def __init__(
        self, folder: Path, name: str, *, export: str = CONDA_SAYS, **state: object
    ) -> None:
        self.path = folder / name
        self._state = folder / f"{name}.json"
        options = {"conda": ["--no-builds"], "micromamba": ["--no-build"]}.get(name, [])
        kept = {
            "envs": ["/opt/conda", "/opt/conda/envs/iris", "/opt/conda/envs/mnist"],
            "options": options,
            "fails": "",
            "is_silent": False,
            "defaults": [],
            "export": export,
            **state,
        }
        folder.mkdir(exist_ok=True)
        self._state.write_text(json.dumps(kept))
        self.path.write_text(FAKE.format(python=sys.executable, state=str(self._state)))
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[list[str]]:
        log = Path(f"{self._state}.log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(autouse=True)
def no_conda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any of the programs, until a test puts one there."""
    for name in ("CONDA_EXE", "MAMBA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_conda_environment_comes_with_versions_channels_and_variables(tmp_path: Path) -> None:
    conda = Program(tmp_path / "bin", "conda")

    env = Environment.from_existing_conda_environment("mine", "iris")

    specification = env.to_specification()
    assert env.name == "mine"
    assert conda.asked == [["env", "export", "-n", "iris", "--no-builds"]]
    assert specification.python_version == "3.11.7"
    assert specification.conda_packages == ("_libgcc_mutex=0.1", "mine::numpy=1.26.4", "pip=24.0")
    assert specification.requirements == ("six==1.16.0", "torch==2.3.0")
    assert specification.channels == ("conda-forge",)
    assert specification.environment_variables == {"MODE": "fast"}


def test_micromamba_has_an_option_of_its_own_and_builds_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(tmp_path / "far", "micromamba", export=MICROMAMBA_SAYS)
    monkeypatch.setenv("MAMBA_EXE", str(program.path))

    env = Environment.from_existing_conda_environment("mine", "iris")

    assert program.asked == [["env", "export", "-n", "iris", "--no-build"]]
    assert env.python.conda_dependencies.conda_packages == ["numpy=1.26.4", "python=3.11.7"]
    assert env.to_specification().python_version == "3.11.7"


def test_mamba_of_either_kind_is_asked_without_an_option(tmp_path: Path) -> None:
    program = Program(tmp_path / "bin", "mamba", export=MICROMAMBA_SAYS)

    env = Environment.from_existing_conda_environment("mine", "iris")

    assert program.asked == [["env", "export", "-n", "iris"]]
    assert env.python.conda_dependencies.conda_packages == ["numpy=1.26.4", "python=3.11.7"]


def test_folder_of_an_environment_is_given_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "envs" / "own"
    conda = Program(tmp_path / "bin", "conda", envs=[str(folder)])

    env = Environment.from_existing_conda_environment("mine", folder)

    assert conda.asked == [["env", "export", "-p", str(folder), "--no-builds"]]
    assert env.python.conda_dependencies.pip_packages == ["six==1.16.0", "torch==2.3.0"]


def test_channels_that_conda_means_by_defaults_are_named(tmp_path: Path) -> None:
    export = CONDA_SAYS.replace("- conda-forge", "- defaults\n  - conda-forge")
    export = export.replace("mine::numpy", "defaults::numpy")
    main = "https://channel.example/main"
    Program(tmp_path / "bin", "conda", export=export, defaults=[main])

    env = Environment.from_existing_conda_environment("mine", "iris")

    specification = env.to_specification()
    assert specification.channels == (main, "conda-forge")
    assert "numpy=1.26.4" in specification.conda_packages


def test_next_program_is_asked_for_what_the_first_one_does_not_know(tmp_path: Path) -> None:
    conda = Program(tmp_path / "bin", "conda", envs=["/opt/conda"])
    Program(tmp_path / "bin", "micromamba", export=MICROMAMBA_SAYS)

    env = Environment.from_existing_conda_environment("mine", "iris")

    assert len(conda.asked) == 2
    assert env.python.conda_dependencies.pip_packages == ["six==1.16.0"]


@pytest.mark.parametrize(("name", "is_silent"), [("conda", False), ("micromamba", True)])
def test_unknown_environment_names_the_nearest(name: str, is_silent: bool, tmp_path: Path) -> None:
    program = Program(tmp_path / "bin", name, is_silent=is_silent)

    with pytest.raises(EnvironmentNotFound, match='"iris"') as e:
        Environment.from_existing_conda_environment("mine", "irsi")

    assert str(program.path) in e.value.message
    assert e.value.metadata["nearest"] == "iris"
    assert e.value.hint == "there are: base, iris, mnist"


def test_environments_elsewhere_are_listed_by_their_paths(tmp_path: Path) -> None:
    listed = ["/opt/conda", "/opt/conda/envs/iris", "/data/own"]
    Program(tmp_path / "bin", "conda", envs=listed)

    with pytest.raises(EnvironmentNotFound) as e:
        Environment.from_existing_conda_environment("mine", "x")

    assert e.value.hint == "there are: base, iris, /data/own"


def test_path_of_no_environment_is_not_found(tmp_path: Path) -> None:
    Program(tmp_path / "bin", "conda")

    with pytest.raises(EnvironmentNotFound, match="/nowhere/env is no conda environment"):
        Environment.from_existing_conda_environment("mine", "/nowhere/env")


def test_without_a_program_it_says_where_it_looked() -> None:
    with pytest.raises(SpecInvalid, match="no conda, mamba or micromamba in CONDA_EXE") as e:
        Environment.from_existing_conda_environment("mine", "iris")

    assert "from_conda_specification" in e.value.hint


def test_program_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    conda = Program(tmp_path / "bin", "conda", fails="line 1\nCorruptedEnvironmentError: broken")

    with pytest.raises(SpecInvalid, match="ended with exit code 1:\nline 1\nCorrupted") as e:
        Environment.from_existing_conda_environment("mine", "iris")

    assert e.value.hint == f"try `{conda.path} env export -n iris --no-builds`"


def test_program_that_can_not_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conda").write_bytes(b"\x7fELF no program")
    (tmp_path / "conda").chmod(0o755)
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "conda"))

    with pytest.raises(SpecInvalid, match="could not be started"):
        Environment.from_existing_conda_environment("mine", "iris")
