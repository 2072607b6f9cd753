"""runyard of any version in an environment of its own, as a user's second virtual environment."""

from __future__ import annotations

import re
import shutil
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

PACKAGES = "runyardpb runyard_contract runyard runyard_job runyard_daemon runyard_agent".split()
PROGRAM = """#!{python}
from runyard.cli.entry import main
main()
"""


class Installation:
    """A virtual environment with a copy of this project's packages that says it is `version`.

    What the packages depend on comes from the environment of the tests.

    Args:
        root: the environment's folder, not there yet.
        version: such as "0.2.0".
        is_checkout: the packages lie in a source folder, as after an editable install.
    """

    def __init__(self, root: Path, version: str, *, is_checkout: bool = False) -> None:
        self.version = version
        self.python = root / "bin" / "python"
        self.program = root / "bin" / "runyard"
        venv.create(root, symlinks=True)
        (site,) = root.glob("lib/python*/site-packages")
        self.packages = root / "src" if is_checkout else site
        for package in PACKAGES:
            spec = find_spec(package)
            assert spec is not None
            assert spec.submodule_search_locations
            shutil.copytree(spec.submodule_search_locations[0], self.packages / package)
        path = [str(self.packages), sysconfig.get_path("purelib")]
        (site / "tests.pth").write_text("\n".join(path) + "\n")
        module = self.packages / "runyard_contract" / "version.py"
        text, count = re.subn(
            r'(?m)^_VERSION = "[^"]+"', f'_VERSION = "{version}"', module.read_text()
        )
        assert count == 1
        module.write_text(text)
        self.program.write_text(PROGRAM.format(python=self.python))
        self.program.chmod(0o755)
