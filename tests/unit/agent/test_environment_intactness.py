"""Whether built environments are still what was built."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from runyard_agent.environments.intactness import LOOK_EVERY_S, Looks, damage, note_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment with a module, a link and bytecode."""
    (tmp_path / "lib" / "__pycache__").mkdir(parents=True)
    (tmp_path / "lib" / "module.py").write_text("VERSION = 1\n")
    (tmp_path / "lib" / "__pycache__" / "module.pyc").write_bytes(b"code")
    (tmp_path / "python").symlink_to("/usr/bin/python3")
    note_files(tmp_path)
    return tmp_path


def test_size_sums_files_and_counts_no_target_of_links(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(1000))
    (tmp_path / "file").write_bytes(bytes(10))
    (tmp_path / "link").symlink_to("/usr/bin/python3")

    assert note_files(tmp_path).size_bytes == 1010 + len("/usr/bin/python3")


def test_new_environment_is_intact(folder: Path) -> None:
    assert damage(folder) == ""


def test_list_that_is_written_again_does_not_count(folder: Path) -> None:
    note_files(folder)

    assert damage(folder) == ""


def test_what_use_adds_is_no_damage(folder: Path) -> None:
    (folder / "lib" / "__pycache__" / "module.pyc").write_bytes(b"newer code")
    (folder / "lib" / "__pycache__" / "other.pyc").write_bytes(b"code")
    (folder / "lib" / "cache.bin").write_bytes(b"of the package itself")

    assert damage(folder) == ""


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "lib" / "module.py").unlink()

    assert damage(folder) == "lib/module.py is gone"


def test_file_that_is_cut_off_is_named(folder: Path) -> None:
    os.truncate(folder / "lib" / "module.py", 3)

    assert damage(folder) == "lib/module.py has 3 bytes instead of 12"


def test_file_of_the_same_length_that_was_written_is_named(folder: Path) -> None:
    (folder / "lib" / "module.py").write_text("VERSION = 2\n")
    os.utime(folder / "lib" / "module.py", ns=(1, 1))

    assert damage(folder) == "lib/module.py was changed"


def test_link_to_elsewhere_is_named(folder: Path) -> None:
    (folder / "python").unlink()
    (folder / "python").symlink_to("/usr/bin/python3.99")

    assert damage(folder).startswith("python ")


def test_damaged_list_is_damage(folder: Path) -> None:
    os.truncate(folder / "runyard-files.txt", 30)
    with open(folder / "runyard-files.txt", "ab") as file:
        file.write(b"\nx\n")

    assert damage(folder) != ""


def test_file_with_a_strange_name_is_looked_at(folder: Path) -> None:
    strange = folder / "lib" / "a\rb \udcff"
    strange.write_text("x")
    note_files(folder)
    assert damage(folder) == ""

    strange.unlink()

    assert damage(folder) == "lib/a\rb \udcff is gone"


def test_what_was_left_out_and_environments_without_a_list_count_as_intact(tmp_path: Path) -> None:
    (tmp_path / "last-used").write_text(".")
    assert damage(tmp_path) == ""
    note_files(tmp_path, frozenset({"last-used"}))
    (tmp_path / "last-used").write_text("..")

    assert damage(tmp_path) == ""


def test_first_use_looks_and_later_ones_hear_of_it_within_a_minute(folder: Path) -> None:
    now = [0.0]

    async def uses() -> list[str]:
        looks = Looks(lambda: now[0])
        told = [await looks.damage(folder)]
        (folder / "lib" / "module.py").unlink()
        now[0] = LOOK_EVERY_S - 1
        told.append(await looks.damage(folder))
        await looks.settled(folder)
        told.append(await looks.damage(folder))
        now[0] = LOOK_EVERY_S
        told.append(await looks.damage(folder))  # begins the next look, and does not wait for it
        await looks.settled(folder)
        told.append(await looks.damage(folder))
        return told

    assert asyncio.run(uses()) == ["", "", "", "", "lib/module.py is gone"]


def test_restarted_agent_looks_before_the_first_use(folder: Path) -> None:
    (folder / "lib" / "module.py").unlink()

    assert asyncio.run(Looks().damage(folder)) == "lib/module.py is gone"


def test_environment_that_is_built_again_is_intact(folder: Path) -> None:
    async def build_again() -> str:
        looks = Looks()
        (folder / "lib" / "module.py").unlink()
        await looks.damage(folder)
        looks.built(folder)
        return await looks.damage(folder)

    assert asyncio.run(build_again()) == ""
