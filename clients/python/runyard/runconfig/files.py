"""Where run configurations lie: `.azureml/NAME.runconfig`, or any file by its path."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runyard_contract.errors import SpecInvalid
from runyard_contract.nearest import nearest

LOCAL_RUNCONFIG_NAME = "local"
LEGACY_FOLDER = "aml_config"  # where there is one it comes before the newer
FOLDER = ".azureml"
SUFFIX = ".runconfig"
SEPARATE_ENVIRONMENT = "environment.yml"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A run configuration's file, and the project folder that paths in it start from."""

    path: Path
    project: Path

    @property
    def environment_path(self) -> Path | None:
        """Where the environment lies if it is apart; None for a file outside such a folder."""
        if self.path.parent.name in (LEGACY_FOLDER, FOLDER):
            return self.path.parent / SEPARATE_ENVIRONMENT
        return None


def at_path(path: Path) -> ConfigFile:
    """The configuration at exactly this path."""
    folder = path.parent
    inside = folder.name in (LEGACY_FOLDER, FOLDER)
    return ConfigFile(path, folder.parent if inside else folder)


def find(path: str | os.PathLike[str], name: str | None) -> ConfigFile:
    """The existing file of a configuration: by its path, or by project folder and name.

    Raises `SpecInvalid`, naming the nearest or all that there are, when there is none.
    """
    given = Path(path)
    if name is None and not given.is_dir():
        if given.exists():
            return at_path(given)
        raise SpecInvalid(
            f"there is no run configuration {given}",
            hint="give the path of a .runconfig file, or a folder and a name",
            file=str(given),
        )
    wanted = name or LOCAL_RUNCONFIG_NAME
    for folder in (given / LEGACY_FOLDER, given / FOLDER):
        if (folder / (wanted + SUFFIX)).is_file():
            return ConfigFile(folder / (wanted + SUFFIX), given)
    raise _no_such(given, wanted)


def place_for(path: str | os.PathLike[str], name: str | None) -> ConfigFile:
    """Where a configuration is to be written, its folder made. Other rules as for `find`."""
    given = Path(path)
    if name is None and given.suffix == SUFFIX:
        return at_path(given)
    legacy = given / LEGACY_FOLDER
    folder = legacy if legacy.is_dir() else given / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return ConfigFile(folder / ((name or LOCAL_RUNCONFIG_NAME) + SUFFIX), given)


def _no_such(project: Path, name: str) -> SpecInvalid:
    names = sorted(
        {
            file.name.removesuffix(SUFFIX)
            for folder in (LEGACY_FOLDER, FOLDER)
            for file in (project / folder).glob("*" + SUFFIX)
        }
    )
    close = nearest(name, names)
    hint = "save one with RunConfiguration().save(path, name)"
    if names:
        hint = f'did you mean "{close}"?' if close else f"there are: {', '.join(names)}"
    return SpecInvalid(
        f"run configuration {name!r} does not exist in {project / FOLDER}",
        hint=hint,
        name=name,
        folder=str(project),
    )
