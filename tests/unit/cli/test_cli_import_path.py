"""A user's PYTHONPATH does not decide what the command itself imports."""

from __future__ import annotations

from runyard.cli.import_path import without_pythonpath

OWN_FILE = "/site-packages/runyard/cli/__init__.py"


def test_folders_of_pythonpath_are_left_out() -> None:
    path = ["/bin", "/mine/b", "/mine/a", "/usr/lib/python", "/site-packages"]

    kept = without_pythonpath(path, {"PYTHONPATH": "/mine/b:/mine/a/"}, OWN_FILE)

    assert kept == ["/bin", "/usr/lib/python", "/site-packages"]


def test_folder_that_runyard_is_installed_in_stays() -> None:
    path = ["/bin", "/site-packages"]

    assert without_pythonpath(path, {"PYTHONPATH": "/site-packages"}, OWN_FILE) == path


def test_path_stays_as_it_is_without_pythonpath() -> None:
    path = ["/bin", "", "/site-packages"]

    assert without_pythonpath(path, {}, OWN_FILE) == path
    assert without_pythonpath(path, {"PYTHONPATH": ""}, OWN_FILE) == path
