from __future__ import annotations

import os
import tomllib
from pathlib import Path

from runyard_contract import version

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_version_is_that_of_the_project() -> None:
    assert version.version() == tomllib.loads(PYPROJECT.read_text())["project"]["version"]


def test_build_id_of_a_checkout_names_its_sources() -> None:
    build = version.build_id()

    assert build.startswith(f"{version.version()}+src.")
    assert len(build.rsplit(".", 1)[1]) == 8
    assert version.build_id() is build


def test_fingerprint_changes_with_the_sources_only(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "below").mkdir(parents=True)
    (package / "a.py").write_text("1")
    (package / "below/b.py").write_text("1")
    first = version.source_fingerprint([package])

    (package / "__pycache__").mkdir()
    (package / "__pycache__/a.py").touch()
    (package / "notes.txt").touch()
    assert version.source_fingerprint([package]) == first

    (package / "below/b.py").write_text("22")
    second = version.source_fingerprint([package])
    assert second != first

    os.utime(package / "a.py", ns=(1, 1))
    assert version.source_fingerprint([package]) not in {first, second}
