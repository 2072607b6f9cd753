from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from runyard_contract import version
from runyard_contract.compatibility import is_newer

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_version_is_that_of_the_project() -> None:
    assert version.version() == tomllib.loads(PYPROJECT.read_text())["project"]["version"]


def test_build_id_of_a_checkout_names_its_sources() -> None:
    build = version.build_id()

    assert re.fullmatch(re.escape(version.version()) + r"\+src\.\d{13}\.[0-9a-f]{8}", build)
    assert version.build_id() is build


def test_mark_changes_with_the_sources_only(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "below").mkdir(parents=True)
    (package / "a.py").write_text("1")
    (package / "below/b.py").write_text("1")
    first = version.source_mark([package])

    (package / "__pycache__").mkdir()
    (package / "__pycache__/a.py").touch()
    (package / "notes.txt").touch()
    assert version.source_mark([package]) == first

    (package / "below/b.py").write_text("22")
    second = version.source_mark([package])
    assert second != first

    os.utime(package / "a.py", ns=(1, 1))
    assert version.source_mark([package]) not in {first, second}


def test_mark_of_sources_that_were_changed_later_is_newer(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("a.py", "b.py"):
        (package / name).touch()
        os.utime(package / name, ns=(1, 5_000_000_000))
    first = version.source_mark([package])

    os.utime(package / "a.py", ns=(1, 5_001_000_000))
    second = version.source_mark([package])

    assert is_newer(f"0.1.0+src.{second}", f"0.1.0+src.{first}")
