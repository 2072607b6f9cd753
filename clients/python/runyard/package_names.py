"""Names and versions in the requirements of conda and pip, as people write them."""

from __future__ import annotations

import re

_CONDA_NAME = re.compile(r"(?:[\w./-]+::)?(?P<name>[\w.-]+)(?P<version>.*)\Z", re.DOTALL)
_PIP_NAME = re.compile(r"[A-Za-z0-9._-]+")


def split_conda(package: str) -> tuple[str, str | None]:
    """(name, version wish in pip's terms) of conda's `channel::name=1.2=build`."""
    match = _CONDA_NAME.match(package.strip())
    if match is None:
        return package.strip(), None
    version = match["version"].strip()
    if not version.startswith((">", "<", "!", "~")):
        version = version.lstrip("=").split("=")[0]
    return match["name"].lower(), version.strip().removesuffix(".*") or None


def pip_name(line: str) -> str:
    """The name in a pip requirement, in the one form that all its spellings have."""
    match = _PIP_NAME.match(line.strip())
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else line.strip()
